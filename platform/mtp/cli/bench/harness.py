"""Runs contestants in turns (A B C, C B A, ...) and compares them pair by pair.

A machine that slows down slows both members of a pair, so the ratio of a round means something where a single time does
not; and what a contestant leaves behind, in caches and in collectors' queues, meets now one and now another. Knows
nothing of what the contestants do.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contestant:
    """One way to do the work. `run` does it once; `work` is how much that is, in `unit`."""

    name: str
    run: Callable[[], object]
    work: float
    unit: str = "tokens"
    detail: Mapping[str, object] = field(default_factory=dict)
    """What a reader needs to repeat it: parameters, FLOPs a token, versions."""


@dataclass(frozen=True)
class Measured:
    """A contestant's rates, one a round, in `unit` a second."""

    contestant: Contestant
    rates: tuple[float, ...]
    processor_s: tuple[float, ...] = ()
    """Seconds of processor time of this process, one a round: what is left to compare on a machine that others use."""

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.rates)


OnRound = Callable[[int, int, str], None]
"""Called before every run with (round, rounds, contestant); round 0 warms up."""


def in_words(tell: Callable[[str], None]) -> OnRound:
    """Tells of every run in a sentence."""
    return lambda done, total, name: tell(f"Round {done} of {total}: {name}")


def take_turns(
    contestants: Sequence[Contestant], rounds: int, on_round: OnRound = lambda done, total, name: None
) -> dict[str, Measured]:
    """Warm every contestant up once, then run all of them in each of `rounds` rounds, there and back; by name."""
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    processor: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for current in range(rounds + 1):
        for contestant in contestants if current % 2 else reversed(contestants):
            on_round(current, rounds, contestant.name)
            began, busy = time.perf_counter(), time.process_time()
            contestant.run()
            seconds, busy = time.perf_counter() - began, time.process_time() - busy
            if current:
                rates[contestant.name].append(contestant.work / seconds)
                processor[contestant.name].append(busy)
    return {one.name: Measured(one, tuple(rates[one.name]), tuple(processor[one.name])) for one in contestants}


def pairwise(a: Measured, b: Measured) -> tuple[float, ...]:
    """Rate of `a` over rate of `b`, round by round."""
    return tuple(x / y for x, y in zip(a.rates, b.rates, strict=True))
