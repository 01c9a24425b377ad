"""Weight-only int8: each output row of a linear layer as whole numbers of its own step, a quarter of the bytes to read.

    w[o, i] ~ scale[o] * n[o, i],  n = round(w / scale),  scale[o] = max_i |w[o, i]| / 127

Activations stay fp32. This changes the model's numbers; `mtp bench decode` measures by how much.
"""

import torch
from torch import Tensor

LARGEST = 127


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (..., out, in) fp32 -> int8 of the same shape, and scales (..., out) fp32."""
    scales = weight.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    return (weight / scales.unsqueeze(-1)).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def dequantised(values: Tensor, scales: Tensor) -> Tensor:
    """The weights that the C++ step computes with."""
    return values.float() * scales.unsqueeze(-1)
