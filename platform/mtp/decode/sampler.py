"""Drawing a token from a distribution with a given uniform number."""

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
