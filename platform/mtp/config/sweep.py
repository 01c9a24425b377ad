"""Which configuration keys a sweep tries, and with which values."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mtp.config.base import Section


class RangeConfig(Section):
    """A range of numbers to draw from (random sweeps)."""

    low: float
    high: float
    log: bool = False
    """Draw the logarithm evenly."""
    whole: bool = False
    """Draw whole numbers, both ends included."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"low ({self.low:g}) must be more than 0 where log is true")
        return self


class SweepConfig(Section):
    """Trials over configuration keys, each a training run of its own."""

    name: str = "sweep"
    """Names the sweep's folder; the same name goes on with the same sweep."""
    method: Literal["grid", "random"] = "grid"
    """Every combination of the values, or `trials` random ones."""
    parameters: dict[str, tuple[Any, ...] | RangeConfig] = Field(default_factory=dict)
    """Key (such as train.optimizer.lr) to its values, or to a range {low, high, log, whole} for `random`."""
    trials: PositiveInt = 10
    """Of a random sweep."""
    seed: int = 0
    """Of a random sweep."""
    metric: str = "eval/loss_h1"
    """What trials are compared by: the name of a train/... or eval/... metric."""
    goal: Literal["min", "max"] = "min"
    max_concurrent: PositiveInt | None = None
    """Trials at once; unset: as many as the cluster has CPUs (and GPUs) for."""

    @model_validator(mode="after")
    def _grids_have_values(self) -> Self:
        for key, values in self.parameters.items():
            if key.split(".")[0] in ("sweep", "tracking", "cluster"):
                raise ValueError(f"parameters: {key} does not change a training; sweep keys of the other sections")
            if isinstance(values, RangeConfig) and self.method == "grid":
                raise ValueError(f"parameters: {key} has a range, which a grid cannot try; list values, or use random")
            if not isinstance(values, RangeConfig) and not values:
                raise ValueError(f"parameters: {key} has no values")
        return self
