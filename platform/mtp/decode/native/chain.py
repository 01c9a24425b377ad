"""Greedy drafts of chained modules in one C++ call: all levels, with nothing of Python between them."""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtp.decode.hidden_ring import HiddenRing
from mtp.decode.native.layout import ChainStruct, LevelStruct, TokensStruct, address
from mtp.decode.rows import Rows


class GreedyChain:
    """See mtp.decode.network.GreedyDrafts."""

    def __init__(
        self,
        library: ctypes.CDLL,
        levels: Sequence[LevelStruct],
        ring: HiddenRing,
        rows: Rows,
        tables: TokensStruct,
        embedding: int,
        hidden_size: int,
    ) -> None:
        """`tables`: all rows' block tables, and the rotation."""
        self._library = library
        self._levels = (LevelStruct * len(levels))(*levels)
        self._kept = (ring, rows)
        self._call = ChainStruct(
            levels=ctypes.addressof(self._levels),
            embedding=embedding,
            hidden_size=hidden_size,
            tokens=address(rows.tokens),
            token_width=rows.width,
            filled=rows.filled.ctypes.data,
            depth=rows.filled.shape[1],
            span=ring.span,
            tables=tables,
        )

    def draft(self, rows: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> Tensor:
        """See GreedyDrafts."""
        drafts = torch.zeros(len(rows), int(counts.max()), dtype=torch.int64)
        call = self._call
        call.rows, call.lengths, call.counts = rows.ctypes.data, lengths.ctypes.data, counts.ctypes.data
        call.row_count, call.most = drafts.shape
        call.drafts, call.threads = drafts.data_ptr(), torch.get_num_threads()
        self._library.mtp_draft(ctypes.byref(call))
        return drafts
