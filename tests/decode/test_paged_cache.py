"""The paged cache under a scheduler: admit, extend, fork, cancel, evict, preempt, in any order.

A stand-in for the model writes into every slot what a real pass would depend on: all tokens up to the slot, and those
that the modules look ahead to. So a block that is shared wrongly, overwritten while somebody holds it, or found under a
wrong key shows as a slot that holds somebody else's text.
"""

from collections import Counter

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mtp.decode.blocks import RESERVED, BlockPool
from mtp.decode.cache import LatentPages
from mtp.decode.options import EngineOptions
from mtp.decode.request import Request, Sampling
from mtp.decode.rows import Rows
from mtp.decode.scheduler import Scheduler
from mtp.decode.sequence import NO_ROW, Sequence
from tests.decode.tiny import tiny_config

BLOCK, BLOCKS, ROWS, LONGEST, DRAFTS = 2, 12, 3, 20, 2
CONFIG = tiny_config({"kind": "none", "n_future": 1})
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=8)


class PagedCacheMachine(RuleBasedStateMachine):
    @initialize(depth=st.sampled_from([0, 2]), budget=st.sampled_from([3, 64]))
    def build(self, depth, budget):
        options = EngineOptions(
            max_batch_size=ROWS, max_model_len=LONGEST, max_batch_tokens=budget, block_size=BLOCK, cache_blocks=BLOCKS
        )
        pages = LatentPages(CONFIG, 1, BLOCKS, BLOCK, torch.device("cpu"), torch.float32)
        self.depth, self.ids = depth, 0
        self.pool = BlockPool(BLOCKS)
        self.rows = Rows(ROWS, LONGEST, depth, DRAFTS, pages)
        self.scheduler = Scheduler(options, self.pool, self.rows)
        self.slots = {}

    def living(self):
        return self.scheduler.running + self.scheduler.waiting

    @rule(prompt=TOKENS, priority=st.integers(0, 2))
    def admit(self, prompt, priority):
        request = Request(prompt=prompt, sampling=Sampling(max_tokens=99), priority=priority)
        self.ids += 1
        self.scheduler.add(Sequence(self.ids, request, self.scheduler.now, DRAFTS, self.depth))

    @rule(place=st.integers(0, 99), tail=TOKENS)
    def fork(self, place, tail):
        """Another output behind the text of a request that lives (n > 1, a follow-up)."""
        if living := self.living():
            self.admit((living[place % len(living)].tokens + tail)[: LONGEST - 4], priority=0)

    @rule(place=st.integers(0, 99), forget=st.booleans())
    def cancel(self, place, forget):
        if living := self.living():
            sequence, before = living[place % len(living)], self.pool.in_use
            mine = [block for block in sequence.blocks if self.holders()[block] == 1]
            self.scheduler.finish(sequence, forget=forget)
            assert self.pool.in_use == before - len(mine), "its memory is free at once"

    @rule(data=st.data())
    def extend(self, data):
        """One step: chunks are computed, drafts verified, tokens emitted; who is too long ends."""
        plan = self.scheduler.plan()
        for sequence, chunk in plan.prefills:
            self.compute(sequence, sequence.computed, chunk)
            sequence.computed += chunk
        for sequence in plan.decodes:
            drafts = sequence.drafts
            assert len(sequence.blocks) * BLOCK >= len(sequence.tokens) + drafts
            self.compute(sequence, sequence.computed, 1 + drafts)
            accepted = data.draw(st.integers(0, drafts))
            sequence.tokens += data.draw(st.lists(st.integers(0, 1), min_size=accepted, max_size=accepted))
            self.compute(sequence, sequence.computed, 1 + accepted)
            sequence.computed += 1 + accepted
            sequence.drafts = 0
        for sequence in [*plan.decodes, *(sequence for sequence, _ in plan.prefills)]:
            if sequence.uncomputed:
                continue
            sequence.tokens.append(data.draw(st.integers(0, 1)))
            self.rows.filled[sequence.row, : self.depth] = [len(sequence.tokens) - k for k in range(1, self.depth + 1)]
            if len(sequence.tokens) + DRAFTS + 1 > LONGEST:
                self.scheduler.finish(sequence)
            else:
                sequence.drafts = data.draw(st.integers(0, DRAFTS))
        for sequence in self.scheduler.running:
            self.scheduler.publish(sequence)
        if self.living():
            assert plan.prefills or plan.decodes or not self.scheduler.running, "somebody works at every step"

    def compute(self, sequence, start, count):
        """Write what a pass over `count` slots from `start` on would leave behind."""
        for place in range(start, start + count):
            block = sequence.blocks[place // BLOCK]
            assert self.holders()[block] == 1 or place >= sequence.published * BLOCK, "a shared block is written to"
            self.slots[block, place % BLOCK] = tuple(sequence.tokens[: place + 1])

    def holders(self):
        return Counter(block for sequence in self.scheduler.running for block in sequence.blocks)

    @invariant()
    def every_slot_holds_its_own_text(self):
        for sequence in self.scheduler.running if hasattr(self, "scheduler") else []:
            for place in range(sequence.computed):
                held = self.slots[sequence.blocks[place // BLOCK], place % BLOCK]
                assert held == tuple(sequence.tokens[: place + 1])

    @invariant()
    def nothing_leaks(self):
        if not hasattr(self, "scheduler"):
            return
        holders = self.holders()
        assert self.pool.in_use == len(holders)
        assert all(RESERVED <= block < RESERVED + BLOCKS for block in holders)
        for sequence in self.scheduler.running:
            assert len(set(sequence.blocks)) == len(sequence.blocks)
            assert self.rows.tables[sequence.row, : len(sequence.blocks)].tolist() == sequence.blocks
        rows = [sequence.row for sequence in self.scheduler.running]
        assert len(set(rows)) == len(rows) == ROWS - self.rows.free
        assert all(sequence.row == NO_ROW and not sequence.blocks for sequence in self.scheduler.waiting)


TestPagedCache = PagedCacheMachine.TestCase
TestPagedCache.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
