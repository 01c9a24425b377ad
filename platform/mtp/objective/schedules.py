"""How much each horizon weighs at a moment of training: lambda_k(t).

A value is the initial one times every schedule of the list. Pure arithmetic on the configuration; knows nothing of
tensors or losses.
"""

from mtp.config.objective import (
    ConstantSchedule,
    CurriculumSchedule,
    DecaySchedule,
    LambdaConfig,
    LambdaSchedule,
    StepSchedule,
)
from mtp.errors import UsageError


def lambdas_at(config: LambdaConfig, n_future: int, step: int, total_steps: int, tokens_seen: int) -> list[float]:
    """[lambda_1, ..., lambda_n] when `step` steps are done and `tokens_seen` tokens were read; lambda_1 is 1.

    With the defaults of DeepSeek-V3 (initial 0.3, a step to a third at 67 %) and n_future 2 this is [1, 0.3] at
    first and [1, 0.1] in the end.

    Args:
        config: initial values, unit, schedules.
        n_future: the largest horizon.
        step: optimizer steps done so far.
        total_steps: steps of the whole training: what `step` and `decay` count as T when `config.span` is unset.
        tokens_seen: tokens read so far, for `unit: tokens`.

    Raises:
        UsageError: a list of per-horizon values is too short for n_future.
    """
    now = step if config.unit == "steps" else tokens_seen
    done = step / max(total_steps, 1) if config.span is None else now / config.span
    done = min(max(done, 0.0), 1.0)
    values = [1.0]
    for k in range(2, n_future + 1):
        value = _of_horizon(config.initial, k, "initial")
        for schedule in config.schedules:
            value *= _factor(schedule, k, done, now)
        values.append(value)
    return values


def _factor(schedule: LambdaSchedule, k: int, done: float, now: int) -> float:
    """What `schedule` multiplies lambda_k by, when the fraction `done` of training has passed."""
    match schedule:
        case ConstantSchedule():
            return 1.0
        case StepSchedule():
            return _of_horizon(schedule.factor, k, "factor") if done >= _of_horizon(schedule.at, k, "at") else 1.0
        case DecaySchedule():
            return float((1.0 - done) ** _of_horizon(schedule.alpha, k, "alpha"))
        case CurriculumSchedule():
            return 1.0 if now >= _of_horizon(schedule.starts, k, "starts") else 0.0


def _of_horizon(value: float | tuple[float, ...], k: int, name: str) -> float:
    """The value of horizon k, of a single value or one that lists horizons 2, 3, ..."""
    if not isinstance(value, tuple):
        return float(value)
    if k - 2 >= len(value):
        raise UsageError(
            f"objective.lambdas: {name} lists values for horizons 2..{len(value) + 1}, but the model predicts "
            f"horizon {k}; add a value for each horizon"
        )
    return float(value[k - 2])
