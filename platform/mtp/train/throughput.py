"""Tokens a second, model FLOPs utilisation, time spent waiting for data.

MFU = FLOPs that the model needs for the tokens it saw / (seconds x peak of the devices used); the peak is measured by
a matrix product at the start, not taken from a data sheet. Knows clocks and tensors; knows nothing of the model.
"""

import time

import torch

_SIDE = {"cpu": 1024, "cuda": 8192}


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product here and now, with the threads that training uses: the best of three."""
    side = _SIDE.get(device.type, 4096)
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):  # the first warms up
        _synchronize(device)
        started = time.perf_counter()
        a @ a
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


class IntervalClock:
    """Times the steps between two logs."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._waited = 0.0
        self._tokens = 0
        self._aside = 0.0

    def waited(self, seconds: float) -> None:
        """Time in which the next batch was not there."""
        self._waited += seconds

    def trained(self, tokens: int) -> None:
        """One step on so many tokens of the global batch is done."""
        self._tokens += tokens

    def set_aside(self, seconds: float) -> None:
        """Time that is not training: evaluation, checkpoints."""
        self._aside += seconds

    def lap(self, flops_per_token: float, peak: float) -> dict[str, float]:
        """tokens_per_s, mfu and data_wait_fraction since the last lap; starts the next."""
        now = time.perf_counter()
        elapsed = max(now - self._started - self._aside, 1e-9)
        rate = self._tokens / elapsed
        figures = {
            "train/tokens_per_s": rate,
            "train/mfu": rate * flops_per_token / peak,
            "train/data_wait_fraction": self._waited / elapsed,
        }
        self._started, self._waited, self._tokens, self._aside = now, 0.0, 0, 0.0
        return figures


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
