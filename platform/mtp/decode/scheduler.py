"""Who works in the next step: continuous batching over token ids and blocks.

Steady requests (one uncomputed token, plus drafts) always run. What the token budget leaves goes to prompts, in
chunks; then waiting requests are admitted, best rank first. When memory runs out, the running request of the worst
rank is preempted: it gives up its blocks and is computed again later. Waiting improves a rank, so nobody starves.
"""

from dataclasses import dataclass, field

from mtp.decode.blocks import BlockPool
from mtp.decode.options import EngineOptions
from mtp.decode.prefix import block_key, shareable_blocks
from mtp.decode.rows import Rows
from mtp.decode.sequence import NO_ROW, Sequence

STEPS_PER_PRIORITY = 64
"""Waiting so many steps is worth one unit of priority."""


@dataclass
class Plan:
    """The work of one step."""

    prefills: list[tuple[Sequence, int]] = field(default_factory=list)
    """Sequences with a chunk of so many known tokens to compute."""
    decodes: list[Sequence] = field(default_factory=list)
    """Sequences with one uncomputed token and perhaps drafts."""


class Scheduler:
    """Owns the queue, the rows and the blocks."""

    def __init__(self, options: EngineOptions, pool: BlockPool, rows: Rows) -> None:
        self._options = options
        self._pool = pool
        self._rows = rows
        self._now = 0
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        """Blocks looked up and found at admission."""

    @property
    def now(self) -> int:
        """Steps planned so far."""
        return self._now

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def plan(self) -> Plan:
        """Choose the next step's work, and reserve the blocks that it writes to."""
        self._now += 1
        plan = Plan()
        for sequence in sorted(self.running, key=_rank):
            if sequence.row != NO_ROW and sequence.uncomputed == 1 and self._reserve_decode(sequence):
                plan.decodes.append(sequence)
        used = sum(1 + sequence.drafts for sequence in plan.decodes)
        budget = max(self._options.max_batch_tokens - used, self._options.block_size)
        for sequence in sorted(self.running, key=_rank):
            if budget > 0 and sequence.row != NO_ROW and sequence.uncomputed > 1:
                budget -= self._plan_chunk(plan, sequence, budget)
        while budget > 0 and self.waiting and self._rows.free:
            sequence = min(self.waiting, key=self._waiting_rank)
            if not self._admit(sequence):
                break
            if sequence.uncomputed == 1:
                plan.decodes.append(sequence)
                budget -= 1
            else:
                budget -= self._plan_chunk(plan, sequence, budget)
        plan.decodes = [sequence for sequence in plan.decodes if sequence.row != NO_ROW]
        plan.prefills = [(sequence, chunk) for sequence, chunk in plan.prefills if sequence.row != NO_ROW]
        return plan

    def finish(self, sequence: Sequence, *, forget: bool = False) -> list[int]:
        """Take a sequence out, wherever it is; `forget` when its blocks hold bad values.

        Returns:
            Blocks that nobody holds any more.
        """
        if sequence.row == NO_ROW:
            self.waiting.remove(sequence)
            return []
        self.running.remove(sequence)
        return self._release(sequence, forget=forget)

    def publish(self, sequence: Sequence) -> None:
        """Offer the blocks of a running sequence that have become full and final."""
        size, depth = self._options.block_size, sequence.module_depth
        if not self._options.prefix_caching or sequence.computed // size <= sequence.published:
            return
        final = int(self._rows.filled[sequence.row, :depth].min()) if depth else sequence.computed
        full = min(min(final, sequence.computed) // size, shareable_blocks(sequence, size))
        for index in range(sequence.published, full):
            self._pool.publish(sequence.blocks[index], block_key(sequence, index, size))
        sequence.published = max(sequence.published, full)

    def _plan_chunk(self, plan: Plan, sequence: Sequence, budget: int) -> int:
        """Plan as much of the sequence's known tokens as fits; returns how many.

        Modules look ahead module_depth tokens: a rest shorter than that would leave slots half known, so it is taken
        along.
        """
        chunk = min(budget, sequence.uncomputed)
        if sequence.uncomputed - chunk <= sequence.module_depth:
            chunk = sequence.uncomputed
        if not self._reserve(sequence, sequence.computed + chunk):
            return 0
        plan.prefills.append((sequence, chunk))
        return chunk

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence a row and the blocks of its prefix that are cached, if all of it would fit now."""
        size = self._options.block_size
        shared = self._shared_prefix(sequence)
        needed = _blocks(len(sequence.tokens), size) - len(shared)
        if needed > self._pool.available:
            self._pool.release(reversed(shared))
            return False
        self.waiting.remove(sequence)
        sequence.blocks, sequence.computed, sequence.published = shared, len(shared) * size, len(shared)
        self.running.append(sequence)
        self._rows.enter(sequence)
        if sequence.uncomputed == 1 and not self._reserve(sequence, len(sequence.tokens)):
            raise RuntimeError("an admitted sequence found no block")
        return True

    def _shared_prefix(self, sequence: Sequence) -> list[int]:
        if not self._options.prefix_caching or sequence.prompt_logprobs is not None:
            return []
        blocks: list[int] = []
        for index in range(shareable_blocks(sequence, self._options.block_size)):
            self.prefix_queries += 1
            block = self._pool.share(block_key(sequence, index, self._options.block_size))
            if block is None:
                break
            self.prefix_hits += 1
            blocks.append(block)
        return blocks

    def _reserve_decode(self, sequence: Sequence) -> bool:
        """Room for the token and its drafts; without the drafts rather than at another's cost."""
        wanted = _blocks(len(sequence.tokens) + sequence.drafts, self._options.block_size)
        if wanted - len(sequence.blocks) > self._pool.available:
            sequence.drafts = 0
        return self._reserve(sequence, len(sequence.tokens) + sequence.drafts)

    def _reserve(self, sequence: Sequence, length: int) -> bool:
        """Blocks for `length` tokens; preempts worse-ranked sequences, at last the sequence itself (False)."""
        missing = _blocks(length, self._options.block_size) - len(sequence.blocks)
        if missing <= 0:
            return True
        while (blocks := self._pool.allocate(missing)) is None:
            victim = max(self.running, key=_rank)
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks.extend(blocks)
        self._rows.set_blocks(sequence)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.append(sequence)

    def _release(self, sequence: Sequence, *, forget: bool = False) -> list[int]:
        """Give back blocks and row; later blocks first, so that a shared prefix is the last to be evicted."""
        retired = self._pool.release(reversed(sequence.blocks), forget=forget)
        self._rows.leave(sequence)
        sequence.drafts = 0
        sequence.blocks, sequence.computed, sequence.published = [], 0, 0
        return retired

    def _waiting_rank(self, sequence: Sequence) -> tuple[int, int]:
        waited = (self._now - sequence.arrival) // STEPS_PER_PRIORITY
        return sequence.request.priority - waited, sequence.id


def _rank(sequence: Sequence) -> tuple[int, int]:
    """Smaller is better."""
    return sequence.request.priority, sequence.id


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)
