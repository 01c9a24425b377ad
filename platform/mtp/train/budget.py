"""How many steps fit into a budget of minutes.

The answer is found once, before the first step, from a few trial steps that change nothing; from then on the run is a
function of the step number alone, resumed or not. Knows nothing of what a step does.
"""

import time
from collections.abc import Callable

WARMUP_TRIALS, TIMED_TRIALS = 2, 5
_KEPT = 0.96
"""Share of the budget that steps may fill; the rest is for checkpoints, evaluation and slower moments."""


def step_seconds(trial: Callable[[], object]) -> float:
    """Seconds of one `trial`, after warm-up trials that are not counted."""
    for _ in range(WARMUP_TRIALS):
        trial()
    started = time.perf_counter()
    for _ in range(TIMED_TRIALS):
        trial()
    return (time.perf_counter() - started) / TIMED_TRIALS


def steps_within(minutes: float, seconds_a_step: float) -> int:
    """Steps that fit into `minutes`; at least 1."""
    return max(1, int(minutes * 60 * _KEPT / seconds_a_step))
