"""A sweep's figure: the metric against each swept key. Knows records; matplotlib is imported when it is drawn."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtp.sweep.record import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DECADE = 10
"""Positive values that span more than this are drawn on a logarithmic axis."""


def sweep_figure(trials: Sequence[TrialRecord], metric: str) -> "Figure":
    """One panel a key, one dot a finished trial, and a line through the means."""
    from matplotlib.figure import Figure

    keys = list(trials[0].values)
    figure = Figure(figsize=(4.2 * len(keys), 3.6), layout="constrained")
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    done = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    for panel, key in zip(panels, keys, strict=True):
        _draw(panel, key, done)
    panels[0].set_ylabel(metric)
    figure.suptitle(f"{metric} of {len(done)} trials")
    return figure


def _draw(panel: "Axes", key: str, trials: Sequence[TrialRecord]) -> None:
    values = [trial.values[key] for trial in trials]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = values if numeric else [str(value) for value in values]
    panel.scatter(places, [float(trial.value or 0.0) for trial in trials], color="#0072B2", alpha=0.7, s=28)
    panel.set_xlabel(key)
    panel.grid(alpha=0.3)
    if numeric and values and min(values) > 0 and max(values) > _DECADE * min(values):
        panel.set_xscale("log")
    by_value: dict[Any, list[float]] = {}
    for place, trial in zip(places, trials, strict=True):
        by_value.setdefault(place, []).append(float(trial.value or 0.0))
    means = sorted((place, sum(found) / len(found)) for place, found in by_value.items())
    panel.plot([place for place, _ in means], [mean for _, mean in means], color="#D55E00", linewidth=1.2)
