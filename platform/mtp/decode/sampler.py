"""Drawing a token from a distribution with given random numbers."""

import torch
from torch import Tensor


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulated weights pass uniform x total (inverse transform; no token of weight 0).

    Args:
        weights: (R, V) >= 0, not necessarily normalised, with a positive sum.
        uniform: (R,) float64 in [0, 1).

    Returns:
        (R,) int64.
    """
    cumulated = weights.double().cumsum(-1)
    target = (uniform.unsqueeze(-1) * cumulated[:, -1:]).contiguous()
    return torch.searchsorted(cumulated, target, right=True).squeeze(-1).clamp_(max=weights.shape[-1] - 1)


def race(weights: Tensor, exponentials: Tensor) -> Tensor:
    """The token whose exponential clock, of rate its weight, rings first: argmin E / w, a draw from `weights`.

    Two distributions that are raced with the same numbers agree on the winner with probability at least
    (1 - TV) / (1 + TV), without knowing of each other (Daliri, Musco and Suresh 2024).

    Args:
        weights: (..., V) >= 0, with a positive sum.
        exponentials: (..., V) float64 of mean 1.

    Returns:
        (...) int64.
    """
    return (exponentials / weights.double()).argmin(-1)
