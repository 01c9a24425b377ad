"""Figures of training and evaluation, as matplotlib Figures that the registry logs and the docs show.

Horizons keep one colour and one marker in every figure (Okabe and Ito's colours, told apart without colour vision
too). Knows histories and reports; knows nothing of files. matplotlib is imported when a figure is made.
"""

import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name -> (step, value) pairs, as the trainer logged them."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_TEXTBOOK_RATES = (0.7, 0.4, 0.2)
"""How often draft 1, 2, 3 is accepted when those before it were, in textbook sketches of MTP."""


def loss_figure(history: History) -> "Figure":
    """Loss per horizon over steps, from train/loss_h1.. (lines) and eval/loss_h1.. (markers)."""
    figure, axes = canvas("Loss per horizon", "optimizer step", "cross-entropy (nats per token)")
    _draw_horizons(axes, history, "loss_h", first=1)
    return figure


def agreement_figure(history: History) -> "Figure":
    """Agreement per horizon over steps, from train/agreement_h2.. (lines) and eval/agreement_h2.. (markers)."""
    figure, axes = canvas(
        "Agreement of each horizon with the model's own next token", "optimizer step", "share of positions that agree"
    )
    _draw_horizons(axes, history, "agreement_h", first=2)
    _share_axis(axes)
    return figure


def acceptance_figure(acceptance: Sequence[float], agreement: Sequence[float] = ()) -> "Figure":
    """Acceptance per draft position as bars, beside the text-book figures and, if given, the agreement per horizon.

    Args:
        acceptance: position 1, 2, ...: how often all drafts up to it were accepted.
        agreement: horizons 2, 3, ...: the teacher-forced estimate of each alone.
    """
    figure, axes = canvas("Acceptance per draft position", "draft position", "share of drafts accepted")
    positions = range(1, len(acceptance) + 1)
    bars = axes.bar(positions, acceptance, width=0.5, color=COLOURS[0], label="measured: this and all before it")
    axes.bar_label(bars, [f"{value:.0%}" for value in acceptance], padding=3)
    textbook = list(accumulate(_TEXTBOOK_RATES[: len(acceptance)], operator.mul))
    axes.hlines(
        textbook,
        [position - 0.25 for position in positions[: len(textbook)]],
        [position + 0.25 for position in positions[: len(textbook)]],
        colors=COLOURS[1],
        linewidth=3,
        label="textbook: 70 % x 40 % x 20 %",
    )
    if agreement:
        beside = [position + 0.33 for position in positions]
        axes.plot(beside, agreement, MARKERS[2], color=COLOURS[2], ms=9, label="agreement on held-out text, alone")
    axes.set_xticks(list(positions))
    _share_axis(axes)
    axes.legend(frameon=False)
    return figure


def domains_figure(acceptance: Mapping[str, Sequence[float]]) -> "Figure":
    """Acceptance per draft position of every domain, as groups of bars.

    Args:
        acceptance: domain -> position 1, 2, ...: how often all drafts up to it were accepted.
    """
    figure, axes = canvas("Acceptance per domain", "domain", "share of drafts accepted")
    positions = max(map(len, acceptance.values()))
    width = 0.8 / positions
    for place in range(positions):
        mine = [(x, rates[place]) for x, rates in enumerate(acceptance.values()) if place < len(rates)]
        shift = (place - (positions - 1) / 2) * width
        label = f"draft {place + 1}"
        colour = COLOURS[place % len(COLOURS)]
        axes.bar([x + shift for x, _ in mine], [y for _, y in mine], width * 0.9, color=colour, label=label)
    axes.set_xticks(range(len(acceptance)), list(acceptance))
    _share_axis(axes)
    axes.legend(frameon=False)
    return figure


def reliability_figure(reliability: Sequence[Sequence[tuple[float, float]]], ece: Sequence[float]) -> "Figure":
    """How often the most likely token was right, over how likely it was said to be; on the diagonal: calibrated.

    Args:
        reliability: horizons 1..n: (confidence, share correct) of each bin that holds anything.
        ece: horizons 1..n: the expected calibration error.
    """
    figure, axes = canvas("Calibration on held-out text", "confidence in the most likely token", "share correct")
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, label="calibrated")
    for k, (points, error) in enumerate(zip(reliability, ece, strict=True), 1):
        colour, marker = COLOURS[(k - 1) % len(COLOURS)], MARKERS[(k - 1) % len(MARKERS)]
        label = f"horizon {k}, ECE {error:.3f}"
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=marker, label=label)
    axes.set_xlim(0, 1)
    _share_axis(axes)
    axes.legend(frameon=False)
    return figure


def canvas(title: str, x: str, y: str) -> "tuple[Figure, Axes]":
    """An empty figure in the style of all of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _draw_horizons(axes: "Axes", history: History, name: str, first: int) -> None:
    """One line a horizon for train/<name>k, markers for eval/<name>k; a legend entry a horizon."""
    k = first
    while f"train/{name}{k}" in history or f"eval/{name}{k}" in history:
        colour, marker = COLOURS[(k - 1) % len(COLOURS)], MARKERS[(k - 1) % len(MARKERS)]
        training, held_out = history.get(f"train/{name}{k}", ()), history.get(f"eval/{name}{k}", ())
        axes.plot(*_columns(training), color=colour, linewidth=1.6, label=f"horizon {k}")
        label = f"horizon {k}, held out"
        axes.plot(
            *_columns(held_out), marker, color=colour, ms=7, mec="white", zorder=3, label=label if held_out else None
        )
        k += 1
    if k > first:
        axes.legend(frameon=False, ncols=2)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _share_axis(axes: "Axes") -> None:
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter("{x:.0%}")
