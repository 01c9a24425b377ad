"""The hidden states that prediction modules still need: the last `span` slots of every row, one ring a depth.

Level k holds h^k: level 0 the backbone's, level k the output of module k. A module that was not run for some steps
finds its inputs here when it runs again.
"""

import numpy as np
import torch
from torch import Tensor


class HiddenRing:
    """levels x (rows + 1) x span x d; the last row takes what padding writes."""

    def __init__(
        self, levels: int, rows: int, span: int, hidden_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.span = span
        self._trash = rows * span
        self._device = device
        self._levels = [torch.zeros((rows + 1) * span, hidden_size, device=device, dtype=dtype) for _ in range(levels)]

    def write(self, level: int, places: Tensor, hidden: Tensor) -> None:
        """hidden (B, q, d) to `places` (B * q,), made by `places`."""
        self._levels[level].index_copy_(0, places, hidden.reshape(-1, hidden.shape[-1]))

    def read(self, level: int, places: Tensor, shape: tuple[int, int]) -> Tensor:
        """The states (B, q, d) at `places` (B * q,); `shape` is (B, q)."""
        return self._levels[level].index_select(0, places).view(*shape, -1)

    def address(self, level: int) -> int:
        """Where the states of a level lie: row r's slot i is state r * span + i % span."""
        return self._levels[level].data_ptr()

    def places(self, rows: np.ndarray, positions: np.ndarray, valid: np.ndarray | None = None) -> Tensor:
        """Where slots `positions` (B, q) of `rows` (B,) are kept; those that are not `valid` (B, q) go to the trash."""
        places = rows[:, None] * self.span + positions % self.span
        if valid is not None:
            places = np.where(valid, places, self._trash)
        return torch.from_numpy(places.ravel()).to(self._device)
