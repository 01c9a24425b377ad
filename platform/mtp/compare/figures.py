"""Figures of a comparison: the curves of perplexity, and acceptance per position. Draws; computes nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtp.compare.plan import MAIN, STANDARD
from mtp.compare.tables import of_label
from mtp.compare.training import TrainedModel
from mtp.evaluate import acceptance_figure
from mtp.evaluate.figures import COLOURS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison_figures(models: Sequence[TrainedModel]) -> "dict[str, Figure]":
    """By file name."""
    found = {}
    if of_label(models, STANDARD) and of_label(models, MAIN):
        found["convergence_steps.png"] = _convergence(models, by_time=False)
        found["convergence_seconds.png"] = _convergence(models, by_time=True)
    decoded = [model.report.decoding for model in of_label(models, MAIN) if model.report.decoding]
    if decoded:
        places = zip(*(decoding.acceptance for decoding in decoded), strict=True)
        found["acceptance.png"] = acceptance_figure([sum(place) / len(place) for place in places])
    return found


def _convergence(models: Sequence[TrainedModel], *, by_time: bool) -> "Figure":
    """One thin line a seed; standard and MTP."""
    figure, axes = canvas("Held-out perplexity", "seconds of training" if by_time else "step", "perplexity")
    for label, colour in zip((STANDARD, MAIN), COLOURS, strict=False):
        for number, model in enumerate(of_label(models, label)):
            x = [point.seconds if by_time else point.step for point in model.curve]
            y = [point.perplexity for point in model.curve]
            axes.plot(x, y, color=colour, linewidth=1.2, label=label if number == 0 else None)
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure
