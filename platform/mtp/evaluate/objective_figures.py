"""Figures of an objective before anything is trained on it: lambda over the steps, and how much each token counts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtp.config.objective import ImportanceConfig, LambdaConfig
from mtp.evaluate.figures import COLOURS, MARKERS, canvas
from mtp.objective import lambdas_at, token_importance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 12
"""Tokens that the importance figure names."""


def schedule_figure(config: LambdaConfig, n_future: int, total_steps: int, tokens_per_step: int) -> "Figure":
    """lambda_k over the steps of a training, for horizons 2..n_future."""
    figure, axes = canvas("Weight of each horizon in the loss", "optimizer step", "lambda")
    steps = sorted({round(i * total_steps / 400) for i in range(401)})
    values = [lambdas_at(config, n_future, step, total_steps, step * tokens_per_step) for step in steps]
    for k in range(2, n_future + 1):
        # Thinner lines on top, so that horizons of equal weight are all seen.
        axes.plot(
            steps,
            [lambdas[k - 1] for lambdas in values],
            color=COLOURS[(k - 1) % len(COLOURS)],
            linewidth=2 + 2 * (n_future - k),
            label=f"horizon {k}",
        )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def importance_figure(config: ImportanceConfig, counts: Tensor, pieces: Sequence[str]) -> "Figure":
    """Weight of each token that the corpus has, over its rank by frequency; the most frequent ones by name.

    Args:
        config: kind and options.
        counts: (V,) how often each token occurs in the corpus.
        pieces: the V pieces of the vocabulary.
    """
    weights = token_importance(config, counts, pieces)
    order = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())]
    figure, axes = canvas(f"Token importance: {config.kind}", "rank of the token by frequency", "weight")
    ranks = torch.arange(1, len(order) + 1)
    axes.plot(ranks.numpy(), weights[order].numpy(), MARKERS[0], color=COLOURS[0], ms=3, alpha=0.6)
    axes.axhline(1, color=COLOURS[1], linewidth=1.2, label="mean over the corpus")
    for rank in range(min(NAMED, len(order))):
        token = int(order[rank])
        place = (rank + 1, float(weights[token]))
        axes.annotate(pieces[token], place, (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure
