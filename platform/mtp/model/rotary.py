"""Rotary position embedding of the decoupled part of MLA's queries and keys, with YaRN context extension.

DeepSeek lays pairs out interleaved: (x0, x1), (x2, x3), ... each rotated by its own frequency. The rotated pairs leave
as two halves (all first members, then all second ones), as in Hugging Face's code: queries and keys are permuted
alike, so their products are the same. Knows positions only; documents and masks are attention's business.
"""

import math

import torch
from torch import Tensor

from mtp.config import ModelConfig
from mtp.config.model import YarnConfig

Rotation = tuple[Tensor, Tensor]
"""cos and sin of each pair's angle: (T, rope/2), or (B, q, rope/2) where rows are at their own positions."""


class RotaryEmbedding:
    """The table of angles up to max_position_embeddings; holds no parameters and no buffers.

    The table is kept in fp32 whatever the model's dtype (bf16 angles are useless beyond a few hundred positions),
    and made once for each device.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.max_positions = config.max_position_embeddings
        self._frequencies = inverse_frequencies(config)
        self._scale = rotation_scale(config.rope_scaling)
        self._tables: dict[torch.device, Rotation] = {}

    def prefix(self, length: int, like: Tensor) -> Rotation:
        """cos and sin of positions 0..length-1, (length, rope/2), on the device and in the dtype of `like`."""
        cos, sin = self._table(like.device)
        return cos[:length].to(like.dtype), sin[:length].to(like.dtype)

    def at(self, positions: Tensor, like: Tensor) -> Rotation:
        """cos and sin at `positions` (B, q) int64: (B, q, rope/2) each."""
        cos, sin = self._table(positions.device)
        return cos[positions].to(like.dtype), sin[positions].to(like.dtype)

    def _table(self, device: torch.device) -> Rotation:
        if device not in self._tables:
            positions = torch.arange(self.max_positions, dtype=torch.float32, device=device)
            angles = torch.outer(positions, self._frequencies.to(device))
            self._tables[device] = (angles.cos() * self._scale, angles.sin() * self._scale)
        return self._tables[device]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the interleaved pairs of x (B, T, H, rope) by the angles of each position; see the file's head."""
    cos, sin = (part.unsqueeze(-2) for part in rotation)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """theta^(-2i/rope) for pair i, fp32 (rope/2,); YaRN divides the slow ones by its factor (eq. 17-23)."""
    dim = config.qk_rope_head_dim
    plain = 1.0 / config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    yarn = config.rope_scaling
    if yarn is None:
        return plain
    low = math.floor(_pair_turning(yarn.beta_fast, config, yarn))
    high = math.ceil(_pair_turning(yarn.beta_slow, config, yarn))
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low or 0.001  # as the reference does, so that the ramp never divides by zero
    ramp = ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / width).clamp(0, 1)
    return plain / yarn.factor * ramp + plain * (1 - ramp)


def rotation_scale(yarn: YarnConfig | None) -> float:
    """YaRN's attention temperature as far as it goes into cos and sin (1 when both mscales are equal)."""
    if yarn is None:
        return 1.0
    if yarn.mscale and yarn.mscale_all_dim:
        return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return _mscale(yarn.factor, 1.0)


def softmax_scale(config: ModelConfig) -> float:
    """1/sqrt(nope + rope), times YaRN's mscale_all_dim squared where it is configured."""
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    yarn = config.rope_scaling
    if yarn is None or not yarn.mscale_all_dim:
        return scale
    return scale * _mscale(yarn.factor, yarn.mscale_all_dim) ** 2


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _pair_turning(turns: float, config: ModelConfig, yarn: YarnConfig) -> float:
    """Index of the pair that makes `turns` full turns within the original context."""
    wavelengths = yarn.original_max_position_embeddings / (turns * 2 * math.pi)
    return config.qk_rope_head_dim * math.log(wavelengths) / (2 * math.log(config.rope_theta))
