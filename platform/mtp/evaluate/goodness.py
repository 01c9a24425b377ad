"""Does a sample come from a known distribution? The chi-square test and the distance, over any cells.

Knows counts and probabilities; nothing of tokens or models.
"""

import math

import torch
from torch import Tensor

FEWEST = 5.0
"""Cells that expect fewer are put together: the chi-square distribution is an approximation for large counts."""


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """How likely a sample of the distribution lies at least so far from it (Pearson's chi-square test).

    Args:
        counts: (C,) how often each cell occurred.
        probabilities: (C,) of the cells; they sum to 1.

    Returns:
        In [0, 1]; exactly 0 where a cell of probability 0 occurred.
    """
    counts, expected = counts.double(), probabilities.double() * counts.sum()
    if bool((counts[expected == 0] > 0).any()):
        return 0.0
    order = expected.argsort()
    counts, expected = counts[order], expected[order]
    small = expected.cumsum(0) < FEWEST
    counts = torch.cat((counts[small].sum().view(1), counts[~small]))
    expected = torch.cat((expected[small].sum().view(1), expected[~small]))
    counts, expected = counts[expected > 0], expected[expected > 0]
    if len(expected) < 2:
        return 1.0
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))


def total_variation(counts: Tensor, probabilities: Tensor) -> float:
    """Half the sum of |share - probability|: 0 = the same, 1 = nothing in common."""
    return float((counts.double() / counts.sum() - probabilities.double()).abs().sum() / 2)


def noise_of_total_variation(probabilities: Tensor, samples: int) -> float:
    """What `total_variation` gives on average for a perfect sample of this size: it is never quite 0."""
    p = probabilities.double()
    return float((2 * p * (1 - p) / (math.pi * samples)).sqrt().sum() / 2)
