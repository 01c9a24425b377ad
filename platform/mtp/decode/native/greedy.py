"""The two halves of a greedy step, each one C++ call with nothing of Python between its parts."""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtp.decode.hidden_ring import HiddenRing
from mtp.decode.native.layout import BatchStruct, ChainStruct, LevelStruct, VerificationStruct, address
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
        filled = rows.filled
        self._verification = VerificationStruct(batch, backbone)
        self._chain = ChainStruct(batch, ctypes.addressof(self._levels), filled.ctypes.data, filled.shape[1])

    def verify(self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Emission:
        """See Greedy."""
        call, most = self._verification, int(counts.max())
        choices = np.zeros((len(rows), most), dtype=np.int64)
        accepted, finite = np.zeros((2, len(rows)), dtype=np.int64)
        _point(call.batch, rows)
        call.starts, call.counts, call.most = starts.ctypes.data, counts.ctypes.data, most
        call.choices, call.accepted, call.finite = choices.ctypes.data, accepted.ctypes.data, finite.ctypes.data
        self._library.mtp_verify(ctypes.byref(call))
        stood = accepted.tolist()
        tokens = [row[: count + 1] for row, count in zip(choices.tolist(), stood, strict=True)]
        return Emission(tokens, stood, [bool(good) for good in finite.tolist()])

    def draft(self, rows: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> Tensor:
        """See Greedy."""
        call, drafts = self._chain, torch.zeros(len(rows), int(counts.max()), dtype=torch.int64)
        _point(call.batch, rows)
        call.lengths, call.counts, call.most = lengths.ctypes.data, counts.ctypes.data, drafts.shape[1]
        call.drafts = address(drafts)
        self._library.mtp_draft(ctypes.byref(call))
        return drafts


def _point(batch: BatchStruct, rows: np.ndarray) -> None:
    """A call is about these rows."""
    batch.rows, batch.count, batch.threads = rows.ctypes.data, len(rows), torch.get_num_threads()
