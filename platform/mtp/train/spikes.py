"""Tells a loss that leaps out of what the steps before it had. Knows numbers; knows nothing of training."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

_FEWEST = 8
"""Losses before which no deviation is worth the name."""


@dataclass(frozen=True)
class Spike:
    """A loss far above the `mean` of the steps before it; `sigmas` is how many standard deviations."""

    loss: float
    mean: float
    sigmas: float


class SpikeWatch:
    """Compares each loss with the `window` before it; a spike itself joins the window, so that a lasting change of
    level is flagged once and then is the level.
    """

    def __init__(self, sigma: float, window: int, losses: Iterable[float] = ()) -> None:
        """`losses`: those before the first one that will be looked at."""
        self._sigma = sigma
        self._losses = deque(losses, maxlen=window)

    @property
    def losses(self) -> tuple[float, ...]:
        """What the next loss will be compared with, oldest first."""
        return tuple(self._losses)

    def look(self, loss: float) -> Spike | None:
        """The spike that `loss` is, if it is one."""
        spike = self._compare(loss) if len(self._losses) >= _FEWEST else None
        self._losses.append(loss)
        return spike

    def _compare(self, loss: float) -> Spike | None:
        count = len(self._losses)
        mean = math.fsum(self._losses) / count
        deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in self._losses) / (count - 1))
        if deviation == 0 or loss <= mean + self._sigma * deviation:
            return None
        return Spike(loss, mean, (loss - mean) / deviation)
