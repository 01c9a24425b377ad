"""Random numbers that depend on nothing but a request's seed and the position of the token they decide.

A counter-based generator (the finaliser of splitmix64 over seed, position and purpose). It has no state, so it makes
no difference who shares the batch, how the prompt was cut into chunks, how many tokens were drafted and thrown away,
or whether the request was preempted and computed again.
"""

import numpy as np
import torch
from torch import Tensor

DRAFT, ACCEPT, EMIT, RACE = 1, 2, 3, 4
"""Purposes; each has numbers of its own at every position."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_PURPOSE = np.uint64(0xD1B54A32D192ED03)


def uniforms(seeds: np.ndarray, positions: np.ndarray, purpose: int) -> np.ndarray:
    """Uniform numbers in [0, 1) on a grid of 2^-32, float64.

    Args:
        seeds: (R,) uint64.
        positions: (R, n) int64: index of the token in the output.
        purpose: DRAFT, ACCEPT or EMIT.

    Returns:
        (R, n).
    """
    return (_bits(seeds, positions, purpose) >> np.uint64(32)).astype(np.float64) * 2.0**-32


def exponentials(seeds: np.ndarray, positions: np.ndarray, vocab_size: int, device: torch.device) -> Tensor:
    """Exponential numbers of mean 1, one for each token of the vocabulary at each position.

    Args:
        seeds: (R,) uint64.
        positions: (R, n) int64.
        vocab_size: V.
        device: where they are made.

    Returns:
        (R, n, V) float64, from a grid of 2^-53.
    """
    start = torch.from_numpy(_bits(seeds, positions, RACE).view(np.int64)).to(device).unsqueeze(-1)
    counters = torch.arange(1, vocab_size + 1, device=device) * _signed(_GOLDEN)
    bits = _mixed_signed(start + counters)
    return -torch.log(_shifted(bits, 11).double().add_(0.5).mul_(2.0**-53))


def _bits(seeds: np.ndarray, positions: np.ndarray, purpose: int) -> np.ndarray:
    streams = _mixed(seeds + np.array([purpose], dtype=np.uint64) * _PURPOSE)
    return _mixed(streams[:, None] + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def _mixed_signed(x: Tensor) -> Tensor:
    """`_mixed` on int64, whose products wrap around alike; shifts have to be made logical."""
    x = (x ^ _shifted(x, 30)) * _signed(_FIRST)
    x = (x ^ _shifted(x, 27)) * _signed(_SECOND)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: np.uint64) -> int:
    return int(constant.view(np.int64))
