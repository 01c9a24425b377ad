"""What a step costs on this machine: seconds of a target pass by its tokens, of one draft by its rows, of a prefill.

Calibrated once when the engine starts, on passes whose results nobody reads. Afterwards every step tells two things:
how fast the machine is now (`pace`, common to all costs: somebody else's work slows passes of every size), and, where
smaller passes were made shortly before, how far its size is off the calibration beside them. All by medians, so that a
step during which the machine did something else counts for nothing.
"""

import bisect
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

RECENT = 9
"""Steps that the pace is the median of: few, since a step is compared with those around it."""
UNREAD = 64
"""Steps that are remembered until somebody asks for a cost."""
KEPT = 9
"""Measurements of one size that its correction is the median of."""
ROUNDS, SECONDS = 12, 2.0
"""A calibration measures every size so often, unless that takes longer than so many seconds."""


class Curve:
    """Seconds over a size, piecewise linear between calibrated points, each with a correction."""

    def __init__(self, points: Iterable[tuple[int, float]]) -> None:
        """(size, seconds), at least one."""
        ordered = sorted(points)
        self._sizes = [size for size, _ in ordered]
        self._seconds = [seconds for _, seconds in ordered]
        self._seen: list[deque[float]] = [deque(maxlen=KEPT) for _ in ordered]
        self._corrections = [1.0] * len(ordered)

    def calibrated(self, size: int) -> float:
        """Seconds for `size` as first measured; beyond the largest size in proportion."""
        place = bisect.bisect_left(self._sizes, size)
        if place == 0:
            return self._seconds[0]
        if place == len(self._sizes):
            return self._seconds[-1] * size / self._sizes[-1]
        low, high = self._sizes[place - 1], self._sizes[place]
        share = (size - low) / (high - low)
        return self._seconds[place - 1] * (1 - share) + self._seconds[place] * share

    def point(self, size: int) -> int:
        """The number of the calibrated point nearest to `size`."""
        place = min(bisect.bisect_left(self._sizes, size), len(self._sizes) - 1)
        nearer_below = place > 0 and size - self._sizes[place - 1] < self._sizes[place] - size
        return place - 1 if nearer_below else place

    def correction(self, size: int) -> float:
        """What steps of about this size took, over what the calibration says."""
        return self._corrections[self.point(size)]

    def observe(self, size: int, ratio: float) -> None:
        """A step took `ratio` times the calibrated seconds, the pace taken out."""
        point = self.point(size)
        self._seen[point].append(ratio)
        self._corrections[point] = statistics.median(self._seen[point])

    def at(self, size: int) -> float:
        """Seconds for `size`, corrected."""
        return self.calibrated(size) * self.correction(size)


class StepCosts:
    """The costs of one engine."""

    def __init__(self, verify: Curve, draft: Curve, fill: Curve) -> None:
        """`fill`: seconds over tokens of one module's pass over a prompt."""
        self._verify = verify
        self._draft = draft
        self._fill = fill
        self._unread: deque[tuple[int, float]] = deque(maxlen=UNREAD)
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._pace = 1.0

    def verify(self, tokens: int) -> float:
        """Seconds of a target pass over so many tokens, with all that is done about its result."""
        self._read()
        return self._verify.at(tokens) * self._pace

    def draft(self, rows: int) -> float:
        """Seconds of one more draft for so many requests, with its share of the decision about how many there are."""
        self._read()
        return self._draft.at(rows) * self._pace

    def fill(self, tokens: int) -> float:
        """Seconds in which one module catches up with so many tokens of a prompt."""
        self._read()
        return self._fill.at(tokens) * self._pace

    def calibrated(self, tokens: int) -> float:
        """Seconds of a target pass as first measured."""
        return self._verify.calibrated(tokens)

    def verified(self, tokens: int, seconds: float) -> None:
        """A step's pass took so long. What follows from it is worked out when somebody asks for a cost."""
        self._unread.append((tokens, seconds))

    def drafted(self, rows: int, levels: int, seconds: float) -> None:
        """`levels` drafts in a row, for `rows` requests at first, took so long together."""
        self._read()
        self._draft.observe(rows, seconds / levels / self._draft.calibrated(rows) / self._pace)

    def _read(self) -> None:
        while self._unread:
            tokens, seconds = self._unread.popleft()
            point, ratio = self._verify.point(tokens), seconds / self._verify.calibrated(tokens)
            self._recent.append((point, ratio / self._verify.correction(tokens)))
            self._pace = statistics.median(value for _, value in self._recent)
            smallest = min(other for other, _ in self._recent)
            if point > smallest:  # or a correction of the smallest would leave all sizes that nobody has tried behind
                plain = statistics.median(value for other, value in self._recent if other == smallest)
                self._verify.observe(tokens, ratio / plain)


def measure(run: Callable[[int], object], sizes: Sequence[int]) -> Curve:
    """The fastest of a few runs at each size, taken in turns: what disturbs only adds. Each follows one like it, as a
    step does, and finds in the caches what that has left there."""
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    began = time.perf_counter()
    for done in range(ROUNDS):
        if done and time.perf_counter() - began > SECONDS * done / ROUNDS:
            break
        for size in sizes:
            run(size)
            start = time.perf_counter()
            run(size)
            seconds[size].append(time.perf_counter() - start)
    return Curve((size, min(found)) for size, found in seconds.items())


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... and `most`."""
    sizes = {1, most}
    power = 2
    while power <= most:
        sizes |= {power, min(power * 3 // 2, most)}
        power *= 2
    return sorted(sizes)
