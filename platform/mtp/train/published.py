"""A training's newest figures as gauges of Ray, which Prometheus scrapes from every node; MLflow keeps the history.

`train/tokens_per_s` is published as `mtp_train_tokens_per_s`, and a horizon's `train/loss_h2` as
`mtp_train_loss_per_horizon` with the label `horizon`. Readings of machines are left out: Ray publishes its own.
"""

import re
from collections.abc import Mapping

from ray.util.metrics import Gauge

from mtp.train.recorder import MetricSink

_NAME = re.compile(r"(train|eval)/([a-z0-9_]+?)(?:_h(\d+))?")
_LABELS = ("run", "horizon")


def series_of(name: str) -> tuple[str, str] | None:
    """The gauge for a metric by MLflow's name, and its horizon ("" for none); None if it is not published."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    group, what, horizon = match.groups()
    return f"mtp_{group}_{what}" + ("_per_horizon" if horizon else ""), horizon or ""


class Published:
    """A metric sink that publishes what passes through it on its way to another.

    Ray forgets a gauge that is not set again, so all are set at every call: held-out losses too, which come rarely.
    """

    def __init__(self, sink: MetricSink, run: str) -> None:
        """`run`: the name by which the training is told from others."""
        self._sink = sink
        self._run = run
        self._gauges: dict[str, Gauge] = {}
        self._values: dict[tuple[str, str], float] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Publish, and pass on."""
        self._values["mtp_train_step", ""] = step
        for name, value in metrics.items():
            series = series_of(name)
            if series is not None:
                self._values[series] = value
        for (name, horizon), value in self._values.items():
            self._gauge(name).set(value, {"run": self._run, "horizon": horizon})
        self._sink.log(step, metrics)

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, "The newest value; MLflow has them all.", _LABELS)
        return self._gauges[name]
