"""How a cost grows with the work: sizes that take turns, the exponent of the power that fits best, a figure.

An exponent of 1 is cost in proportion to the work, 0 a cost that the work does not change. Knows nothing of what costs.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtp.cli.bench.harness import Contestant, OnRound, take_turns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """The seconds that each size took, medians over the rounds."""

    name: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """The slope of the least-squares line through (log size, log seconds)."""
        return statistics.linear_regression(list(map(math.log, self.sizes)), list(map(math.log, self.seconds))).slope

    def entry(self) -> dict[str, Any]:
        """A row of the report: the seconds of the largest size, and all of them."""
        return {
            "name": self.name,
            "unit": "seconds",
            "median": self.seconds[-1],
            "detail": {
                "exponent": f"{self.exponent:.2f}",
                "sizes": " ".join(map(str, self.sizes)),
                "seconds": " ".join(f"{value:.3g}" for value in self.seconds),
            },
        }


def measure_curve(name: str, runs: Mapping[int, Callable[[], object]], rounds: int, on_round: OnRound) -> Curve:
    """The curve of `runs`, by size; each is one unit of what is timed."""
    sizes = sorted(runs)
    found = take_turns([Contestant(f"{name}: {size}", runs[size], 1) for size in sizes], rounds, on_round)
    return Curve(name, tuple(sizes), tuple(1 / found[f"{name}: {size}"].median for size in sizes))


def growth_figure(curves: Sequence[Curve]) -> "Figure":
    """Every curve in a panel of its own, both axes logarithmic, with the line of its exponent."""
    from matplotlib.figure import Figure

    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, curve in zip(panels, curves, strict=False):
        centre = math.exp(statistics.fmean(map(math.log, curve.sizes)))
        height = math.exp(statistics.fmean(map(math.log, curve.seconds)))
        line = [height * (size / centre) ** curve.exponent for size in curve.sizes]
        panel.loglog(curve.sizes, curve.seconds, "o", color="#0072B2")
        panel.loglog(curve.sizes, line, color="#D55E00", label=f"exponent {curve.exponent:.2f}")
        panel.set_title(curve.name, fontsize=9)
        panel.set_ylabel("seconds")
        panel.set_xticks(curve.sizes, [str(size) for size in curve.sizes])
        panel.set_yticks(curve.seconds, [f"{value:.2g}" for value in curve.seconds])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend()
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    return figure
