"""The training order over several data sets: which source each global position reads, and which row of it.

A pure function of (fingerprints, weights, seed). Row j of source s has the key (j + u) / share, with u in [0, 1) a
hash of (s, j); the mixed order is all rows of all sources by key. So among the first n positions a source has n * share
rows, give or take one for each source, its rows come in its own order (mtp.data.order: without replacement, epoch
after epoch), and positions can be looked up anywhere without walking there. Knows nothing about files or workers.

Keys are cut into windows [b * W, (b + 1) * W); how many rows of a source lie below b * W has a closed form.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mtp.data.order import WINDOW_GROUPS, Ints, RowOrder, seed_of, splitmix64


class Order(Protocol):
    """What both kinds of order answer."""

    def places(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Source and row id at each of the global positions [start, stop)."""

    def edges(self, start: int, stop: int) -> list[int]:
        """The positions in (or just before) [start, stop) at which a reader best begins."""


class MixedOrder:
    """Rows of several sources in training order.

    Example:
        >>> order = MixedOrder([RowOrder([8], "a", 0), RowOrder([4], "b", 0)], [3.0, 1.0], seed=0)
        >>> sources, rows = order.places(0, 8)  # six rows of source 0, two of source 1, give or take one
    """

    def __init__(self, orders: Sequence[RowOrder], weights: Sequence[float], seed: int) -> None:
        """`orders` and `weights`: one a source."""
        self._orders = orders
        self._shares = [weight / sum(weights) for weight in weights]
        self._states = [seed_of(f"{order.fingerprint}/{seed}/mixture/{s}") for s, order in enumerate(orders)]
        largest_group = max(int(order.group_rows.max()) for order in orders)
        self._width = max(WINDOW_GROUPS * largest_group, 4 * len(orders))

    def places(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Source and row id at each of the global positions [start, stop)."""
        sources, rows = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for window in self._windows(start, stop):
            first = self._start(window)
            of_window = self._window(window)
            wanted = slice(max(start - first, 0), stop - first)
            sources.append(of_window[0][wanted])
            rows.append(of_window[1][wanted])
        return np.concatenate(sources), np.concatenate(rows)

    def edges(self, start: int, stop: int) -> list[int]:
        """Where the windows that positions [start, stop) cross begin."""
        return [self._start(window) for window in self._windows(start, stop)]

    def _windows(self, start: int, stop: int) -> range:
        """The windows that positions [start, stop) cross."""
        return range(self._window_of(start), self._window_of(stop - 1) + 1) if start < stop else range(0)

    def _window_of(self, position: int) -> int:
        window = position // self._width  # a window starts at most one row a source from where its keys do
        while self._start(window) > position:
            window -= 1
        while self._start(window + 1) <= position:
            window += 1
        return window

    def _start(self, window: int) -> int:
        """The first position of a window."""
        return sum(self._counts(window))

    def _counts(self, window: int) -> list[int]:
        """Rows of each source before a window."""
        counts = []
        for source, share in enumerate(self._shares):
            whole, rest = divmod(window * self._width * share, 1.0)
            counts.append(int(whole) + bool(self._jitter(source, int(whole), 1)[0] < rest))
        return counts

    def _window(self, window: int) -> tuple[Ints, Ints]:
        """Sources and row ids of all the window's positions, in order."""
        keys, sources, rows = [], [], []
        for source, (start, stop) in enumerate(zip(self._counts(window), self._counts(window + 1), strict=True)):
            ordinals = np.arange(start, stop)
            keys.append((ordinals + self._jitter(source, start, stop - start)) / self._shares[source])
            sources.append(np.full(stop - start, source))
            rows.append(self._orders[source].rows(start, stop))
        by_key = np.argsort(np.concatenate(keys), kind="stable")
        return np.concatenate(sources)[by_key], np.concatenate(rows)[by_key]

    def _jitter(self, source: int, start: int, length: int) -> npt.NDArray[np.float64]:
        """u of a source's rows start .. start + length - 1, in [0, 1)."""
        hashes = splitmix64(self._states[source], length, start)
        return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
