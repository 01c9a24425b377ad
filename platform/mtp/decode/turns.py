"""Steps with drafts and steps without, in turn, at one batch size: what drafts really cost.

Costs were measured one by one when the engine started, and are added up. What that leaves out (what Python does about
drafts, other processes, a measurement on a busy machine) would make drafts promise for good what they do not bring. So
now and then a few steps are plain ones, and the steps with drafts around them show how far off the sum was.
"""

import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

EARLY, REFRESH, PLAIN_STEPS = 16, 128, 4
"""Drafting steps before some without drafts while little is known, later, and how many those are."""
KEPT = 5
"""Comparisons that an overrun is the median of; until there are so many, they come early."""
BELIEVED = 3
"""Until there were so many, the missing ones count as if costs were as promised: one comparison in a slow phase of the
machine would else condemn a depth for good, since another one is drafted from then on."""
FORGIVEN = 0.999
"""An overrun, to this power with each further plain step: what seemed too dear is tried again, the later the dearer."""


class Promise(NamedTuple):
    """Of a step with drafts, at most `depth` for a request: seconds in those of standard decoding's step."""

    depth: int
    cost: float


class Overrun:
    """Times the promised cost of drafts of one depth, what steps with them took."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=KEPT)
        self._forgiven = False
        self.value = 1.0

    @property
    def known(self) -> bool:
        """Whether there were enough comparisons, the last of them not long ago."""
        return len(self._seen) == KEPT and not self._forgiven

    def observe(self, times: float) -> None:
        """Steps took so many times what was promised."""
        self._seen.append(times)
        missing = [1.0] * (BELIEVED - len(self._seen))
        self.value, self._forgiven = statistics.median([*self._seen, *missing]), False

    def forgive(self) -> None:
        """A step was made in which nothing was drafted."""
        if self.value > 1:
            self.value, self._forgiven = self.value**FORGIVEN, True


class Turns:
    """The steps at one batch size; their seconds are told in those that a plain one was measured to take at first."""

    def __init__(self, depth: int) -> None:
        """`depth`: the largest number of drafts of a request."""
        self.spent = self.probed = 0.0
        """Seconds in which requests ran that may draft, and those of them that probing took."""
        self._overruns = [Overrun() for _ in range(depth)]
        self._drafting: list[tuple[float, Promise]] = []
        self._plain: deque[float] = deque(maxlen=PLAIN_STEPS)
        self._plain_in_a_row = 0
        self._last_plain: Sequence[float] = (1.0,)

    @property
    def pace(self) -> float:
        """Seconds of the last plain steps in a row."""
        return _typical(self._last_plain)

    def overrun(self, depth: int) -> float:
        """See Overrun."""
        return self._overruns[depth - 1].value

    @property
    def plain_is_due(self) -> bool:
        """Whether the next step should show what standard decoding costs."""
        if len(self._drafting) < EARLY:
            return False
        return len(self._drafting) >= REFRESH or not self._overruns[self._drafting[-1][1].depth - 1].known

    def count(self, seconds: float, promise: Promise | None) -> None:
        """A step was made, with drafts that promised something or without any."""
        if promise is not None:
            self._plain_in_a_row = 0
            self._drafting.append((seconds, promise))
            return
        self._plain.append(seconds)
        self._plain_in_a_row += 1
        if self._plain_in_a_row < PLAIN_STEPS:
            return
        self._last_plain = tuple(self._plain)
        if self._plain_in_a_row > PLAIN_STEPS:
            for overrun in self._overruns:
                overrun.forgive()
        elif self._drafting:
            self._compare(self._drafting[-EARLY:])
            self._drafting.clear()

    def _compare(self, drafting: list[tuple[float, Promise]]) -> None:
        """With the steps just before the plain ones, since a machine has slow phases."""
        depth = statistics.mode(promise.depth for _, promise in drafting)
        steps = [(seconds, promise.cost) for seconds, promise in drafting if promise.depth == depth]
        if len(steps) >= EARLY // 2:
            self._overruns[depth - 1].observe(_typical(seconds / cost for seconds, cost in steps) / self.pace)


def _typical(seconds: Iterable[float]) -> float:
    """The mean without the slowest quarter, in which the machine may have done something else."""
    ordered = sorted(seconds)
    return statistics.fmean(ordered[: -(-len(ordered) * 3 // 4)])
