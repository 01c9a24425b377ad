"""What a step costs on this machine: seconds of a target pass by its tokens, of one draft by its rows, of a prefill.

Measured once when the engine starts, on passes whose results nobody reads. Only their ratios matter, so a machine that
is slower later changes nothing; what they are wrong about shows in what comes of promises (turns.py).
"""

import bisect
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

ROUNDS, SECONDS = 12, 2.0
"""A calibration measures every size so often, or as often as it can in so many seconds, but once at least."""


class Curve:
    """Seconds over a size, piecewise linear between measured points."""

    def __init__(self, points: Iterable[tuple[int, float]]) -> None:
        """(size, seconds), at least one."""
        ordered = sorted(points)
        self.sizes = [size for size, _ in ordered]
        self._seconds = [seconds for _, seconds in ordered]

    def at(self, size: int) -> float:
        """Seconds for `size`; beyond the largest size in proportion."""
        place = bisect.bisect_left(self.sizes, size)
        if place == 0:
            return self._seconds[0]
        if place == len(self.sizes):
            return self._seconds[-1] * size / self.sizes[-1]
        low, high = self.sizes[place - 1], self.sizes[place]
        share = (size - low) / (high - low)
        return self._seconds[place - 1] * (1 - share) + self._seconds[place] * share


NOTHING = Curve([(1, 0.0)])


@dataclass(frozen=True)
class StepCosts:
    """The costs of one engine."""

    target: Curve
    drafts: Curve
    prompts: Curve
    slots: Curve = NOTHING

    def verify(self, tokens: int) -> float:
        """Seconds of a target pass over so many tokens."""
        return self.target.at(tokens)

    def draft(self, rows: int, k: int = 1) -> float:
        """Seconds of draft k for so many requests: a later one computes anew what was built on the drafts before it."""
        return self.drafts.at(rows) + (k - 1) * self.slots.at(rows)

    def fill(self, tokens: int) -> float:
        """Seconds in which one module catches up with so many tokens of a prompt."""
        return self.prompts.at(tokens)


def difference(more: Curve, less: Curve, times: int) -> Curve:
    """What one of `times` more of something costs, where both were measured at the same sizes; nothing at the least."""
    return Curve((size, max(0.0, more.at(size) - less.at(size)) / times) for size in less.sizes)


def measure(before: Callable[[int], object], run: Callable[[int], object], sizes: Sequence[int]) -> Curve:
    """The median of a few runs at each size, taken up and down the sizes, so that each follows one of about its size.
    `before` each something is done that leaves the caches as the run finds them in a real step; it is not timed. Nor is
    the first time through the sizes, in which weights are touched that nothing has touched before."""
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    began = time.perf_counter()
    for done in range(ROUNDS + 1):
        if done > 1 and time.perf_counter() - began > SECONDS:
            break
        for size in sizes if done % 2 == 0 else reversed(sizes):
            before(size)
            start = time.perf_counter()
            run(size)
            if done:
                seconds[size].append(time.perf_counter() - start)
    return Curve((size, statistics.median(found)) for size, found in seconds.items())


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... and `most`."""
    sizes = {1, most}
    power = 2
    while power <= most:
        sizes |= {power, min(power * 3 // 2, most)}
        power *= 2
    return sorted(sizes)
