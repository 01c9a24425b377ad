"""Random numbers that depend on nothing but a request's seed and the position of the token they decide.

A counter-based generator (the finaliser of splitmix64 over seed, position and purpose). It has no state, so it makes
no difference who shares the batch, how the prompt was cut into chunks, how many tokens were drafted and thrown away,
or whether the request was preempted and computed again.
"""

import numpy as np

DRAFT, ACCEPT, EMIT = 1, 2, 3
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
    streams = _mixed(seeds + np.array([purpose], dtype=np.uint64) * _PURPOSE)
    bits = _mixed(streams[:, None] + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(32)).astype(np.float64) * 2.0**-32


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
