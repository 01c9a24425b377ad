"""From a sweep's section to its trials: overrides of the configuration, and the configuration that they give.

A pure function of the configuration: the same sweep has the same trials whenever and wherever it is run. Knows
configurations; knows nothing of training.
"""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mtp.config import Config, build_config
from mtp.config.sweep import RangeConfig, SweepConfig
from mtp.errors import UsageError

_IDENTITY = ("data", "model", "objective", "train")
"""Sections that make a trial what it is."""


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
        name: of its run; a hash of everything that decides the training is in it.
        values: the swept keys with this trial's values.
        config: complete.
    """

    name: str
    values: dict[str, Any]
    config: Config


def plan_trials(config: Config) -> list[Trial]:
    """The trials of `config.sweep`, all valid; equal ones stand once.

    Raises:
        UsageError: there is nothing to sweep, or a combination is not a valid configuration.
    """
    if not config.sweep.parameters:
        raise UsageError("sweep.parameters is empty; give keys and values, such as {train.optimizer.lr: [1e-3, 3e-3]}")
    found = [_trial(config, values) for values in _combinations(config.sweep)]
    return list({trial.name: trial for trial in found}.values())


def _combinations(sweep: SweepConfig) -> Iterator[dict[str, Any]]:
    keys = list(sweep.parameters)
    if sweep.method == "grid":
        for chosen in itertools.product(*(sweep.parameters[key] for key in keys)):
            yield dict(zip(keys, chosen, strict=True))
        return
    for number in range(sweep.trials):
        yield {key: _draw(sweep.parameters[key], random.Random(f"{sweep.seed}/{number}/{key}")) for key in keys}


def _draw(values: tuple[Any, ...] | RangeConfig, source: random.Random) -> Any:
    if not isinstance(values, RangeConfig):
        return source.choice(values)
    low, high = values.low, values.high
    drawn = math.exp(source.uniform(math.log(low), math.log(high))) if values.log else source.uniform(low, high)
    if values.whole:
        return min(max(round(drawn), math.ceil(low)), math.floor(high))
    return float(f"{drawn:.4g}")


def _trial(config: Config, values: dict[str, Any]) -> Trial:
    shown = ", ".join(f"{key}={value}" for key, value in values.items())
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    chosen = build_config(config.model_dump(mode="json"), overrides, where=f"trial {shown}")
    identity = chosen.model_dump(mode="json", include=set(_IDENTITY))
    for key in ("run_name", "storage_path"):
        identity["train"].pop(key)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{config.sweep.name}-{digest}"
    train = chosen.train.model_copy(update={"run_name": name})
    return Trial(name, values, chosen.model_copy(update={"train": train}))
