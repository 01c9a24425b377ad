"""Steps with drafts and steps without, in turn, at one batch size: what the promises of drafts turn out to be worth.

A promise is worked out from costs that were measured one by one. What these leave out (prompts of others between the
steps, other processes, a calibration on a busy machine) would make drafts promise for good what they do not bring. So
now and then a few steps are plain ones, and a promise counts for as much as the steps around them made of it.
"""

import statistics
from collections import deque
from collections.abc import Sequence as Items
from typing import NamedTuple

EARLY, REFRESH, PLAIN_STEPS = 16, 128, 4
"""Drafting steps before some without drafts while little is known, later, and how many those are."""
KEPT = 5
"""Comparisons that the worth is the median of; until there are so many, they come early."""
TRUST = 0.999
"""What a promise is worth, to this power with each further plain step: who was disappointed tries again, the later the
larger the disappointment was."""


class Step(NamedTuple):
    """What one step did, and in how many times the seconds that standard decoding was calibrated to take for it."""

    rows: int
    tokens: int
    seconds: float


class Turns:
    """The steps at one batch size."""

    def __init__(self) -> None:
        self.worth = 1.0
        """Times a promised gain, what is to be expected of it."""
        self._drafting: list[Step] = []
        self._promises: list[float] = []
        self._plain: list[Step] = []
        self._seen: deque[float] = deque(maxlen=KEPT)

    @property
    def plain_is_due(self) -> bool:
        """Whether the next step should show what standard decoding costs."""
        return len(self._drafting) >= (EARLY if len(self._seen) < KEPT else REFRESH)

    def count(self, step: Step, promise: float | None) -> None:
        """A step was made; `promise`: the gain over standard decoding that its drafts had promised, None for none."""
        if promise is not None:
            self._plain.clear()
            self._drafting.append(step)
            self._promises.append(promise)
            return
        self._plain.append(step)
        if len(self._plain) == PLAIN_STEPS:
            if len(self._drafting) >= EARLY:
                self._compare()
            self._drafting.clear()
            self._promises.clear()
        elif len(self._plain) > PLAIN_STEPS:
            self._plain.pop()
            self._seen.clear()
            self.worth **= TRUST

    def _compare(self) -> None:
        gain = _tokens_a_row(self._drafting) / _tokens_a_row(self._plain) * _pace(self._plain) / _pace(self._drafting)
        self._seen.append(gain / statistics.fmean(self._promises))
        self.worth = statistics.median(self._seen)


def _tokens_a_row(steps: Items[Step]) -> float:
    return sum(step.tokens for step in steps) / sum(step.rows for step in steps)


def _pace(steps: Items[Step]) -> float:
    """Mean seconds of all steps but the slowest quarter, in which the machine may have done something else."""
    return statistics.fmean(sorted(step.seconds for step in steps)[: -(-len(steps) * 3 // 4)])
