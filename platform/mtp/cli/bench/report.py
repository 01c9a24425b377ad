"""A benchmark's result: the JSON document of `--json FILE`, and its table. Knows nothing of how it was measured."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from mtp.cli.bench.harness import Measured
from mtp.cli.console import console, print_table


class Ratio(BaseModel):
    """One claim: its figure over the rounds, and the target that it is held against."""

    name: str
    median: float
    min: float
    max: float
    target: float
    better: Literal["higher", "lower"]
    holds: bool

    @classmethod
    def of(cls, name: str, values: Sequence[float], target: float, better: Literal["higher", "lower"]) -> "Ratio":
        """From the ratios of each round."""
        median = statistics.median(values)
        holds = median >= target if better == "higher" else median <= target
        return cls(
            name=name, median=median, min=min(values), max=max(values), target=target, better=better, holds=holds
        )


class BenchReport(BaseModel):
    """What `--json FILE` holds."""

    machine: dict[str, Any]
    versions: dict[str, str]
    limits: dict[str, float]
    contestants: list[dict[str, Any]]
    rounds: int
    ratios: list[Ratio]

    def write(self, path: Path) -> None:
        """Replace `path` at once."""
        staging = path.with_name(f".{path.name}.{os.getpid()}")
        with staging.open("w", encoding="utf-8") as file:
            json.dump(self.model_dump(mode="json"), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)

    def show(self) -> None:
        """Limits, contestants and ratios as tables."""
        console.print(
            f"{self.machine['processor']}, {self.machine['cores']} cores, {self.machine['threads']} threads; "
            + ", ".join(f"{name} {value / 1e9:.1f} G/s" for name, value in self.limits.items()),
            highlight=False,
        )
        print_table(
            "Contestants",
            ("contestant", "median", "detail"),
            (
                (entry["name"], _rate(entry), ", ".join(f"{key} {value}" for key, value in entry["detail"].items()))
                for entry in self.contestants
            ),
        )
        print_table(
            "Ratios",
            ("ratio", "median", "min", "max", "target", "holds"),
            (
                (
                    ratio.name,
                    f"{ratio.median:.3g}",
                    f"{ratio.min:.3g}",
                    f"{ratio.max:.3g}",
                    f"{'>=' if ratio.better == 'higher' else '<='} {ratio.target:g}",
                    "yes" if ratio.holds else "NO",
                )
                for ratio in self.ratios
            ),
        )


def contestant_entry(measured: Measured) -> dict[str, Any]:
    """A contestant's row in the report."""
    contestant = measured.contestant
    return {
        "name": contestant.name,
        "unit": f"{contestant.unit}/s",
        "median": measured.median,
        "min": min(measured.rates),
        "max": max(measured.rates),
        "detail": dict(contestant.detail),
    }


def _rate(entry: dict[str, Any]) -> str:
    return f"{entry['median']:,.1f} {entry['unit']}" if entry["median"] is not None else "missing"
