"""What a step costs on this machine: seconds of a target pass by its tokens, and of one draft by its rows.

Measured once when the engine starts, on passes whose results nobody reads, and corrected by the steps that follow.
Between measured sizes costs are interpolated, beyond the largest one they grow in proportion.
"""

import bisect
import time
from collections.abc import Callable, Iterable

CORRECTION = 0.05
"""Share of a new measurement in the estimate."""
OUTLIER = 2.0
"""A measurement counts as at most so many times the estimate: the machine was busy with something else."""
REPEATS = 3


class Curve:
    """Seconds over a size, piecewise linear."""

    def __init__(self, points: Iterable[tuple[int, float]]) -> None:
        """(size, seconds), at least one."""
        ordered = sorted(points)
        self._sizes = [size for size, _ in ordered]
        self._seconds = [seconds for _, seconds in ordered]

    def at(self, size: int) -> float:
        """Seconds for `size`."""
        place = bisect.bisect_left(self._sizes, size)
        if place == 0:
            return self._seconds[0]
        if place == len(self._sizes):
            return self._seconds[-1] * size / self._sizes[-1]
        low, high = self._sizes[place - 1], self._sizes[place]
        share = (size - low) / (high - low)
        return self._seconds[place - 1] * (1 - share) + self._seconds[place] * share

    def correct(self, size: int, seconds: float) -> None:
        """Move the points around `size` towards a measurement."""
        error = min(seconds, OUTLIER * self.at(size)) / self.at(size) - 1
        place = min(bisect.bisect_left(self._sizes, size), len(self._sizes) - 1)
        for near in {max(place - 1, 0), place} if self._sizes[place] != size else {place}:
            self._seconds[near] *= 1 + CORRECTION * error


class StepCosts:
    """The two curves of an engine."""

    def __init__(self, verify: Curve, draft: Curve) -> None:
        self._verify = verify
        self._draft = draft

    def verify(self, tokens: int) -> float:
        """Seconds of a target pass over so many tokens, with all that is done about its result."""
        return self._verify.at(tokens)

    def draft(self, rows: int) -> float:
        """Seconds of one more draft for so many requests."""
        return self._draft.at(rows)

    def verified(self, tokens: int, seconds: float) -> None:
        """A step's pass took so long."""
        self._verify.correct(tokens, seconds)

    def drafted(self, rows: int, levels: int, seconds: float) -> None:
        """`levels` drafts in a row, for `rows` requests at first, took so long together."""
        self._draft.correct(rows, seconds / levels)


def measure(run: Callable[[int], object], sizes: Iterable[int]) -> Curve:
    """The fastest of a few runs at each size, after one that warms up."""
    points = []
    for size in sizes:
        run(size)
        seconds = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            run(size)
            seconds.append(time.perf_counter() - began)
        points.append((size, min(seconds)))
    return Curve(points)


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... and `most`."""
    sizes = {1, most}
    power = 2
    while power <= most:
        sizes |= {power, min(power * 3 // 2, most)}
        power *= 2
    return sorted(sizes)
