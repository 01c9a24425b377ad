"""A greedy step as one C++ call, with nothing of Python between its parts."""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from mtp.decode.hidden_ring import HiddenRing
from mtp.decode.native.layout import BatchStruct, ChainStruct, LevelStruct, VerificationStruct
from mtp.decode.rows import Rows
from mtp.decode.verification import Emission


class NativeGreedy:
    """See mtp.decode.network.Greedy."""

    def __init__(
        self,
        library: ctypes.CDLL,
        backbone: LevelStruct,
        levels: Sequence[LevelStruct],
        batch: BatchStruct,
        rows: Rows,
        ring: HiddenRing | None,
    ) -> None:
        """`batch` and the levels point into `rows` and `ring`; `levels` are those of chained modules."""
        self._library = library
        self._levels = (LevelStruct * len(levels))(*levels)
        self._kept = (rows, ring)
        size, width, filled = len(rows.tables), rows.most_drafts + 1, rows.filled
        # Arguments and results lie where they always lie: Python on emptied caches is slow, and this is least of it.
        self._given = np.zeros((5, size), dtype=np.int64)
        self._rows, self._starts, self._counts, self._lengths, self._wanted = self._given
        self._choices = np.zeros((size, width), dtype=np.int64)
        self._accepted, self._finite = np.zeros((2, size), dtype=np.int64)
        batch.rows = self._rows.ctypes.data
        self._chain = ChainStruct(
            batch,
            ctypes.addressof(self._levels),
            filled.ctypes.data,
            filled.shape[1],
            self._lengths.ctypes.data,
            self._wanted.ctypes.data,
        )
        self._verification = VerificationStruct(
            batch,
            backbone,
            self._starts.ctypes.data,
            self._counts.ctypes.data,
            width,
            self._choices.ctypes.data,
            self._accepted.ctypes.data,
            self._finite.ctypes.data,
        )
        self._both = ctypes.byref(self._chain), ctypes.byref(self._verification)

    def step(
        self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, wanted: np.ndarray
    ) -> tuple[Emission, float]:
        """See Greedy."""
        size = len(rows)
        self._given[:, :size] = rows, starts, counts, starts + 1, wanted
        self._size(size)
        seconds = self._library.mtp_step(*self._both)
        accepted = self._accepted[:size].tolist()
        choices = self._choices[:size, : max(accepted) + 1].tolist()
        tokens = [row[: count + 1] for row, count in zip(choices, accepted, strict=True)]
        return Emission(tokens, accepted, self._finite[:size].astype(bool).tolist()), seconds

    def draft(self, rows: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> None:
        """See Greedy."""
        size = len(rows)
        self._rows[:size], self._lengths[:size], self._wanted[:size] = rows, lengths, counts
        self._size(size)
        self._library.mtp_draft(self._both[0])

    def _size(self, rows: int) -> None:
        """A call is about the first so many of what was given."""
        for batch in (self._chain.batch, self._verification.batch):
            batch.count, batch.threads = rows, torch.get_num_threads()
