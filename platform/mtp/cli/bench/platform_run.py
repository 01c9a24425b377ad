"""One short training through the whole platform, for benchmarks: its rates by logging interval, its start-up by stage.

Rates are the worker's own (tokens over the time that is not evaluation or saving); stages are told apart by the
events that reach the driver, so they are exact to about a quarter of a second.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtp.config import Config

if TYPE_CHECKING:
    from mtp.train.events import OnProgress

DROPPED = 1
"""Logging intervals at the start that are not counted: caches fill, threads start."""


@dataclass(frozen=True)
class PlatformRun:
    """What a run showed; one entry a logging interval after the first."""

    tokens_per_s: tuple[float, ...]
    data_wait: tuple[float, ...]
    startup: dict[str, float]
    """Seconds by stage."""

    @property
    def rate(self) -> float:
        """Tokens a second over all the intervals, which hold equally many tokens."""
        return statistics.harmonic_mean(self.tokens_per_s)


def run_platform(config: Config, on_event: "OnProgress" = lambda event: None) -> PlatformRun:
    """Train `config` (its steps, not its minutes) in a folder of its own, with a registry of its own.

    The process must be connected to Ray. `on_event` is told every event, as they come.
    """
    from mtp.registry import finish_run, start_run
    from mtp.train import TrainEvent, fit
    from mtp.train.events import Planned, StepDone, WorkerReady

    seen: dict[str, float] = {}
    steps: list[tuple[float, StepDone]] = []

    def take(event: TrainEvent) -> None:
        now = time.perf_counter()
        if isinstance(event, WorkerReady | Planned):
            seen[type(event).__name__] = now
        if isinstance(event, StepDone):
            steps.append((now, event))
        on_event(event)

    with tempfile.TemporaryDirectory(prefix="mtp-bench-") as name:
        uri = f"sqlite:///{Path(name) / 'mlflow.db'}"
        config = config.model_copy(
            update={
                "train": config.train.model_copy(update={"storage_path": name}),
                "tracking": config.tracking.model_copy(update={"uri": uri}),
            }
        )
        began = time.perf_counter()
        run_id = start_run(config.tracking, "bench", {})
        registered = time.perf_counter()
        fit(config, run_id=run_id, tracking_uri=uri, on_progress=take)
        finish_run(run_id, uri=uri)
    counted = [event.metrics for _, event in steps[DROPPED:]]
    first_step = steps[0][0] - _seconds(steps[0][1], config)
    return PlatformRun(
        tokens_per_s=tuple(metrics["train/tokens_per_s"] for metrics in counted),
        data_wait=tuple(metrics["train/data_wait_fraction"] for metrics in counted),
        startup={
            "MLflow run": registered - began,
            "worker processes, imports, model, engine": seen["WorkerReady"] - registered,
            "first rows, metrics, first step": max(first_step - seen["WorkerReady"], 0.0),
        },
    )


def _seconds(event: "object", config: Config) -> float:
    """How long the logging interval lasted that ended with the event."""
    tokens = config.train.log_every * config.train.batch_size * config.data.seq_len
    return tokens / event.metrics["train/tokens_per_s"]  # type: ignore[attr-defined]
