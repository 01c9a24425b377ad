"""The running batch as arrays: one row a request, so that a step builds its inputs without loops over tokens.

Holds token ids, block tables, and how far each prediction module's cache is final. NumPy on the host; `plan` makes
the tensors of one pass. Knows nothing about scheduling or sampling.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mtp.decode.blocks import TRASH_BLOCK, ZERO_BLOCK
from mtp.decode.cache import LatentPages, PageView
from mtp.decode.sequence import NO_ROW, Sequence
from mtp.model import PassInput


class Rows:
    """State of up to `size` running sequences."""

    def __init__(self, size: int, max_len: int, module_depth: int, drafts: int, pages: LatentPages) -> None:
        width = max_len + drafts + 2
        device = pages.blocks[0].device
        self.tokens = torch.zeros(size * width, dtype=torch.int64, device=device)
        """Ids of every row, flat. Emitted tokens and drafts are written here by the step that makes them, so that the
        next pass finds its input on the device; whatever stands behind a row's last token or draft is overwritten
        before it is read."""
        self.tables = np.full((size, -(-max_len // pages.block_size)), ZERO_BLOCK, dtype=np.int64)
        self.filled = np.zeros((size, module_depth), dtype=np.int64)
        """(row, k-1): the first so many slots of module k's cache are final, i.e. built on tokens of the sequence."""
        self._pages = pages
        self._device = device
        self._free = list(range(size - 1, -1, -1))
        self._count = np.arange(width, dtype=np.int64)
        self.width = width
        """Of a row in `tokens`."""
        self.most_drafts = drafts
        """Of a row."""
        self._keys = torch.arange(self.tables.shape[1] * pages.block_size, device=device)

    @property
    def free(self) -> int:
        """Rows without a sequence."""
        return len(self._free)

    def enter(self, sequence: Sequence) -> None:
        """Give `sequence` a row."""
        row = self._free.pop()
        sequence.row = row
        start = row * self.width
        self.tokens[start : start + len(sequence.tokens)] = torch.tensor(sequence.tokens)
        self.filled[row] = sequence.computed
        self.set_blocks(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Take its row back."""
        self.tables[sequence.row] = ZERO_BLOCK
        self._free.append(sequence.row)
        sequence.row = NO_ROW

    def set_blocks(self, sequence: Sequence) -> None:
        """The sequence's block list has changed."""
        self.tables[sequence.row, : len(sequence.blocks)] = sequence.blocks

    def read(self, rows: np.ndarray, positions: np.ndarray) -> Tensor:
        """Tokens (B, q) at `positions` (B, q) of `rows` (B,)."""
        return self.tokens[self.tensor(rows[:, None] * self.width + positions)]

    def write(self, rows: np.ndarray, starts: np.ndarray, tokens: Tensor) -> None:
        """Put `tokens` (B, n) into `rows` (B,) from positions `starts` (B,) on."""
        places = (rows * self.width + starts)[:, None] + self._count[: tokens.shape[1]]
        self.tokens.index_copy_(0, self.tensor(places.ravel()), tokens.reshape(-1))

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the engine's device."""
        tensor = torch.from_numpy(array)
        return tensor if self._device.type == "cpu" else tensor.to(self._device, non_blocking=True)

    def window(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(B, max(counts)) positions start, start+1, ...; where a row has fewer, its last one again."""
        offsets = self._count[: counts.max()]
        return np.minimum(starts[:, None] + offsets, (starts + counts - 1)[:, None])

    def plan(self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> PassInput:
        """A pass over `counts` (B,) >= 1 tokens of each of `rows` (B,), from positions `starts` (B,) on.

        A row with start 5 and count 2 in a pass of width 3 gets positions 5, 6, 6. What padding computes is written
        to the trash block.
        """
        size = self._pages.block_size
        positions = self.window(starts, counts)
        needed = int((starts + counts).max() - 1) // size + 1
        tables = self.tables[rows, :needed]
        slots = np.take_along_axis(tables, positions // size, axis=1) * size + positions % size
        slots[self._count[: positions.shape[1]] >= counts[:, None]] = TRASH_BLOCK * size
        placed = self.tensor(positions)
        mask = placed.unsqueeze(-1) >= self._keys[: needed * size]
        view = PageView(self._pages, self.tensor(tables.ravel()), self.tensor(slots.ravel()), len(rows))
        return PassInput(placed, mask, view)


def row_numbers(sequences: Iterable[Sequence]) -> np.ndarray:
    """The rows (B,) of sequences."""
    return np.array([sequence.row for sequence in sequences], dtype=np.int64)
