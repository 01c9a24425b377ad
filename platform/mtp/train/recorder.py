"""From the results of steps to the metrics of a logging interval, by the names that MLflow and the display show.

Only rank 0 has a recorder. Knows names and sums; knows nothing of how steps run.
"""

import time
from collections.abc import Mapping
from typing import Protocol

import torch

from mtp.objective import horizon_metrics
from mtp.train.step import StepResult
from mtp.train.throughput import IntervalClock


class MetricSink(Protocol):
    """What takes metrics away without ever making training wait: `mtp.registry.MetricLogger`."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the values of `step`."""


class Recorder:
    """Averages over the steps since the last log; losses are weighted by their positions, not by steps."""

    def __init__(self, sink: MetricSink, flops_per_token: float, peak: float) -> None:
        self.clock = IntervalClock()
        self.latest: dict[str, float] = {}
        self._sink = sink
        self._flops_per_token = flops_per_token
        self._peak = peak
        self._spikes = 0
        self._interval: list[StepResult] = []
        self._started = time.perf_counter()
        self._steps = 0

    def add(self, result: StepResult) -> None:
        """One step is done."""
        self._steps += 1
        self.clock.trained(result.tokens)
        if result.applied:
            self._interval.append(result)

    def spiked(self) -> None:
        """The loss of the last step was a spike."""
        self._spikes += 1

    def flush(self, step: int, lambdas: list[float], lr: float, skipped: int) -> dict[str, float]:
        """The metrics of the interval that ends with `step`, also sent to the sink.

        `skipped`: steps of the whole run that moved nothing.
        """
        metrics = self._horizons() if self._interval else {}
        metrics |= {f"train/lambda_h{k}": value for k, value in enumerate(lambdas, start=1) if k > 1}
        metrics |= {"train/lr": lr, "train/skipped_steps": float(skipped)}
        metrics["train/loss_spikes"] = float(self._spikes)
        metrics |= self.clock.lap(self._flops_per_token, self._peak)
        self._interval, self._spikes = [], 0
        self.send(step, metrics)
        return metrics

    def send(self, step: int, metrics: dict[str, float]) -> None:
        """Pass metrics of `step` on."""
        self.latest |= metrics
        self._sink.log(step, metrics)

    def seconds_left(self, steps: int) -> float:
        """How long `steps` more will take at the pace so far."""
        return (time.perf_counter() - self._started) / max(self._steps, 1) * steps

    def _horizons(self) -> dict[str, float]:
        results = self._interval
        sums = torch.stack([result.sums for result in results]).sum(dim=0)
        metrics = {"train/loss": sum(result.loss for result in results) / len(results)}
        metrics |= {f"train/{name}": value for name, value in horizon_metrics(sums).items()}
        metrics["train/grad_norm"] = results[-1].grad_norm
        metrics["train/expert_load_max_violation"] = max(result.violation for result in results)
        return metrics
