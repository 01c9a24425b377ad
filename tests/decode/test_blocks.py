from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mtp.decode.blocks import RESERVED, BlockPool

SIZE = 6


class BlockPoolMachine(RuleBasedStateMachine):
    """Whatever is allocated, shared, published, released or forgotten: every block is somewhere, exactly once."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(SIZE)
        self.held = []
        self.key_of = {}

    @rule(count=st.integers(0, SIZE + 1))
    def allocate(self, count):
        before = self.pool.available
        blocks = self.pool.allocate(count)
        assert (blocks is None) == (count > before)
        for block in blocks or []:
            assert block not in self.held
            self.key_of.pop(block, None)
            self.held.append(block)

    @rule(place=st.integers(0, 100), key=st.sampled_from([b"a", b"b", b"c"]))
    def publish(self, place, key):
        if self.held:
            block = self.held[place % len(self.held)]
            self.pool.publish(block, key)
            if block not in self.key_of and key not in self.key_of.values():
                self.key_of[block] = key

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def share(self, key):
        block = self.pool.share(key)
        expected = next((block for block, known in self.key_of.items() if known == key), None)
        assert block == expected
        if block is not None:
            self.held.append(block)

    @rule(place=st.integers(0, 100), forget=st.booleans())
    def release(self, place, forget):
        if self.held:
            block = self.held.pop(place % len(self.held))
            retired = self.pool.release([block], forget=forget)
            assert retired == ([] if block in self.held else [block])
            if forget:
                self.key_of.pop(block, None)

    @invariant()
    def nothing_leaks(self):
        counts = Counter(self.held)
        assert self.pool.in_use == len(counts)
        assert all(RESERVED <= block < RESERVED + SIZE for block in counts)


TestBlockPool = BlockPoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
