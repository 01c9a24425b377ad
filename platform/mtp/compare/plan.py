"""What a comparison trains: one configuration a variant and seed, each differing from the base in one thing.

Two rows that mean the same training (lambda 0.3 is also the base) share it. Knows configurations; trains nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from mtp.config import Config

STANDARD = "standard"
MAIN = "MTP sequential"
"""The approach that decoders, ablations and the curve are shown on."""
DRAFT = "draft model"
BYTES = 257
"""Entries of a vocabulary of bytes and the end of text."""

Changes = dict[str, Any]
_NONE: Changes = {"model.prediction": {"kind": "none", "n_future": 1}}


class TrainSpec(BaseModel):
    """One training."""

    model_config = ConfigDict(frozen=True)

    labels: tuple[str, ...]
    """Rows of the tables that it stands for."""
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """Of the piece that keeps its outcome."""
        return f"train-{_digest(self.config)}-{self.seed}"


def plan_trainings(config: Config) -> list[TrainSpec]:
    """Every training that the wanted tables need, the approaches first."""
    compare = config.compare
    found: dict[tuple[str, int], TrainSpec] = {}
    for label, changes, seeds in _wanted(config):
        changed = with_changes(config, changes)
        for seed in seeds:
            key = (_digest(changed), seed)
            known = found[key].labels if key in found else ()
            found[key] = TrainSpec(labels=tuple(dict.fromkeys((*known, label))), seed=seed, config=changed)
    return list(found.values()) if compare.tables else []


def approaches(config: Config) -> dict[str, Changes]:
    """Table 1: how the horizons are predicted."""
    n = config.model.prediction.n_future

    def modules(kind: str, **more: Any) -> Changes:
        return {"model.prediction": {"kind": kind, "n_future": n, **more}}

    found = {
        STANDARD: _NONE,
        MAIN: modules("sequential"),
        "MTP sequential, shared": modules("sequential", share_modules=True),
        "MTP parallel": modules("parallel"),
        "MTP independent": modules("independent"),
    }
    if config.compare.byte_data:
        text: Changes = {"data.path": config.compare.byte_data, "evaluate.data": None}
        text |= {"data.vocab_size": BYTES, "model.vocab_size": BYTES}
        found |= {f"{label}, bytes": {**found[label], **text} for label in (STANDARD, MAIN)}
    return found


def ablations(config: Config) -> dict[str, dict[str, Changes]]:
    """Table 3: group -> row -> what it changes of the sequential base."""
    n = config.model.prediction.n_future
    base = approaches(config)[MAIN]
    horizons = n - 1
    fractions = [0.2 + 0.2 * k for k in range(horizons)]
    steps = training_steps(config)
    schedules: dict[str, list[Changes]] = {
        "constant": [],
        "step": [{"kind": "step", "at": 0.67, "factor": 1 / 3}],
        "decay": [{"kind": "decay"}],
        "curriculum": [{"kind": "curriculum", "starts": [int(steps * min(f, 0.8)) for f in fractions]}],
    }
    depths = (0, 1, 2, 4)
    groups: dict[str, dict[str, Changes]] = {
        "future tokens": {
            "1": _NONE,
            **{str(k): {"model.prediction": {"kind": "sequential", "n_future": k}} for k in (2, 4, 8)},
        },
        "depth": {str(d): {"model.prediction": {"kind": "parallel", "n_future": n, "depth": d}} for d in depths},
        "lambda": {f"{v:g}": {**base, "objective.lambdas.initial": v} for v in (0.1, 0.3, 0.5, 1.0)},
        "schedule": {name: {**base, "objective.lambdas.schedules": value} for name, value in schedules.items()},
        "importance": {
            name: {**base, "objective.importance.kind": name}
            for name in ("uniform", "inverse_frequency", "content_words")
        },
    }
    return {group: groups[group] for group in config.compare.ablations}


def ablation_label(group: str, row: str) -> str:
    """How a training names the row that it stands for."""
    return f"{group} = {row}"


def training_steps(config: Config) -> int:
    """Steps that the budget allows."""
    return max(config.compare.tokens // (config.train.batch_size * config.data.seq_len), 1)


def with_changes(config: Config, changes: Changes) -> Config:
    """The configuration with some keys (`a.b.c`) replaced, validated again."""
    tree = config.model_dump(mode="json")
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        section[last] = value
    return Config.model_validate(tree)


def _wanted(config: Config) -> Iterator[tuple[str, Changes, Iterable[int]]]:
    compare = config.compare
    tables = set(compare.tables)
    every = approaches(config)
    if "approaches" not in tables:
        needed = {STANDARD: "convergence" in tables, MAIN: tables - {"ablations"}}
        every = {label: every[label] for label, wanted in needed.items() if wanted}
    for label, changes in every.items():
        yield label, changes, compare.seeds
    if "decoders" in tables:
        width = compare.draft_hidden_size
        small = {"model.hidden_size": width, "model.intermediate_size": 3 * width, "model.num_hidden_layers": 1}
        yield DRAFT, {**_NONE, **small, "model.n_routed_experts": 0}, compare.seeds
    if "ablations" in tables:
        for group, rows in ablations(config).items():
            for row, changes in rows.items():
                yield ablation_label(group, row), changes, compare.ablation_seeds


def _digest(config: Config) -> str:
    """Of what a training depends on."""
    tree = config.model_dump(mode="json", include={"data", "model", "objective", "train", "evaluate"})
    tree["tokens"] = config.compare.tokens
    tree["curve"] = [config.compare.curve_points, config.compare.curve_rows]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
