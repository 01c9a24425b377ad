"""The order in which training reads rows: a pure function of (data fingerprint, seed, epoch).

Two levels keep it both well mixed and cheap to stream. All row groups of all shards are permuted; the permuted list
is cut into windows of WINDOW_GROUPS groups; the rows inside each window are permuted. Every epoch is a permutation of
all rows (both levels are), and reading a stretch of it touches the row groups of the windows it crosses, no others.
Positions never end: position p belongs to epoch p // total_rows. Knows nothing about files, workers or batches.

Permutations sort hashes (splitmix64) instead of drawing from a library's generator, whose stream may change between
versions; a resumed run must find the same order years later.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

WINDOW_GROUPS = 16

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A stretch of the order whose rows are mixed with each other: global positions [start, stop)."""

    epoch: int
    index: int
    start: int
    stop: int


class RowOrder:
    """Rows of a data set in training order.

    A row's id is its place in the data set: shards in manifest order, rows in file order.
    """

    def __init__(self, group_rows: Sequence[int] | Ints, fingerprint: str, seed: int) -> None:
        """`group_rows`: rows of each row group, in the order of row ids."""
        self.group_rows = np.asarray(group_rows, dtype=np.int64)
        self.group_starts = np.concatenate([[0], np.cumsum(self.group_rows)])
        self.total_rows = int(self.group_starts[-1])
        self.fingerprint = fingerprint
        self._identity = f"{fingerprint}/{seed}"
        self._epoch_layout = lru_cache(maxsize=2)(self._lay_out_epoch)

    def places(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Source (always 0) and row id at global positions [start, stop)."""
        rows = self.rows(start, stop)
        return np.zeros_like(rows), rows

    def edges(self, start: int, stop: int) -> list[int]:
        """Where the windows that positions [start, stop) cross begin; reading from edge to edge wastes nothing."""
        return [window.start for window in self.windows(start, stop)]

    def rows(self, start: int, stop: int) -> Ints:
        """Row ids at global positions [start, stop), which may cross windows and epochs."""
        parts = [
            self.window_rows(window)[max(start, window.start) - window.start : stop - window.start]
            for window in self.windows(start, stop)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def windows(self, start: int, stop: int) -> Iterator[Window]:
        """The windows that positions [start, stop) cross, whole, in order."""
        position = start
        while position < stop:
            epoch, inside = divmod(position, self.total_rows)
            _, starts = self._epoch_layout(epoch)
            index = int(np.searchsorted(starts, inside, side="right")) - 1
            base = epoch * self.total_rows
            window = Window(epoch, index, base + int(starts[index]), base + int(starts[index + 1]))
            yield window
            position = window.stop

    def window_rows(self, window: Window) -> Ints:
        """Row ids of a window in order; (window.stop - window.start,)."""
        groups, _ = self._epoch_layout(window.epoch)
        mine = groups[window.index * WINDOW_GROUPS : (window.index + 1) * WINDOW_GROUPS]
        rows = np.concatenate([np.arange(self.group_starts[group], self.group_starts[group + 1]) for group in mine])
        return rows[self._permutation(len(rows), f"{window.epoch}/{window.index}")]

    def _lay_out_epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """The epoch's order of row groups, and where each window starts in it (one entry more than windows)."""
        groups = self._permutation(len(self.group_rows), str(epoch))
        ends = np.concatenate([[0], np.cumsum(self.group_rows[groups])])
        return groups, np.append(ends[:-1:WINDOW_GROUPS], self.total_rows)

    def _permutation(self, length: int, purpose: str) -> Ints:
        """0 .. length-1, shuffled by the identity and `purpose`: the order of distinct hashes of each number."""
        return np.argsort(splitmix64(seed_of(f"{self._identity}/{purpose}"), length), kind="stable")


def seed_of(purpose: str) -> np.uint64:
    """A generator's state that only the text decides."""
    return np.uint64(int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little"))


def splitmix64(state: np.uint64, length: int, start: int = 0) -> npt.NDArray[np.uint64]:
    """Outputs start .. start + length - 1 of the splitmix64 generator (Steele et al. 2014); all are distinct."""
    with np.errstate(over="ignore"):
        steps = np.arange(start + 1, start + length + 1, dtype=np.uint64)
        z = state + steps * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
