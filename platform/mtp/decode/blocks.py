"""Who owns which block of the cache: reference counts, a free list, and prefix sharing by key.

Block numbers and keys only; the numbers in the blocks live in cache.py. A block is in exactly one of three states:
in use (references > 0), cached (no references, but its key is still known: a later request may take it up again), or
free. Allocation takes free blocks first, then the cached block that was released longest ago.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable

RESERVED = 2
"""Block 0 is all zeros and pads what is read; block 1 takes what padding writes. Neither is ever handed out."""
ZERO_BLOCK, TRASH_BLOCK = 0, 1


class BlockPool:
    """`size` blocks to hand out, numbered from RESERVED."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = deque(range(RESERVED, RESERVED + size))
        self._references = [0] * (RESERVED + size)
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free) + len(self._cached)

    @property
    def in_use(self) -> int:
        """Blocks that somebody holds."""
        return self.size - self.available

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one reference each, or None (and no change) if there are not so many."""
        if count > self.available:
            return None
        return [self._take() for _ in range(count)]

    def share(self, key: bytes) -> int | None:
        """The block published under `key`, with one more reference; None if there is none."""
        block = self._block_of.get(key)
        if block is not None:
            self._cached.pop(block, None)
            self._references[block] += 1
        return block

    def publish(self, block: int, key: bytes) -> None:
        """Offer a block in use under `key`; the first to publish a key keeps it."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, blocks: Iterable[int], *, forget: bool = False) -> list[int]:
        """Give up one reference to each block; `forget` withdraws their keys too (their contents are bad).

        Returns:
            Blocks that nobody holds any more.
        """
        retired = []
        for block in blocks:
            if self._references[block] < 1:
                raise RuntimeError(f"block {block} was released more often than it was taken")
            self._references[block] -= 1
            if forget:
                self._forget(block)
            if not self._references[block]:
                self._retire(block)
                retired.append(block)
        return retired

    def _take(self) -> int:
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def _retire(self, block: int) -> None:
        if block in self._key_of:
            self._cached[block] = None
        else:
            self._free.append(block)

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]
