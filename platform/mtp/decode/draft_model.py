"""Drafts from a separate small model of the same vocabulary (Leviathan et al. 2023; Chen et al. 2023).

It has a cache of its own: one fixed run of blocks for every row of the batch, so that its memory is bounded by the
engine's sizes and nothing has to be allocated or shared. After a verification, what it cached for accepted drafts
stays; entries behind the first rejected one are overwritten. Knows rows and ids; nothing of acceptance.
"""

from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from mtp.decode.blocks import RESERVED
from mtp.decode.cache import LatentPages
from mtp.decode.module_drafter import Choose
from mtp.decode.rows import Rows, row_numbers
from mtp.decode.sequence import Sequence
from mtp.errors import UsageError
from mtp.model import MTPModel

NOBODY = -1


class DraftModel:
    """The small model, and how far it has come in each row."""

    def __init__(self, model: MTPModel, vocab_size: int, rows: Rows, size: int, max_len: int, chunk: int) -> None:
        """`size` rows of up to `max_len` tokens; a catching-up pass takes at most `chunk` tokens.

        Raises:
            UsageError: the vocabularies differ in size.
        """
        if model.config.vocab_size != vocab_size:
            raise UsageError(
                f"the draft model has a vocabulary of {model.config.vocab_size} ids, the model one of {vocab_size}; "
                f"a draft model needs the same tokenizer"
            )
        self.max_len = min(max_len, model.config.max_position_embeddings)
        """Sequences longer than this get no drafts."""
        self._model = model
        self._rows = rows
        self._chunk = chunk
        weight, block = model.model.embed_tokens.weight, 16
        blocks_a_row = -(-self.max_len // block)
        layers = model.config.num_hidden_layers
        pages = LatentPages(model.config, layers, size * blocks_a_row, block, weight.device, weight.dtype)
        self._own = Rows(size, self.max_len, 0, 0, pages)
        self._own.tables[:] = RESERVED + np.arange(size * blocks_a_row).reshape(size, blocks_a_row)
        self._owner = np.full(size, NOBODY)
        self._length = np.zeros(size, dtype=np.int64)
        """So many first tokens are cached (of the newest one of them, by the pass that drafted)."""
        self._fed = np.zeros(size, dtype=np.int64)
        """Drafts behind them that are cached too."""

    def fill(self, sequences: Items[Sequence]) -> None:
        """Bring the cache up to what the target has computed of each sequence."""
        self._catch_up(sequences, np.array([min(sequence.computed, self.max_len) for sequence in sequences]))

    def settle(self, sequences: Items[Sequence]) -> None:
        """A step has ended: what it accepted stands. To be called for everybody at every step, drafts or none."""
        self._length[row_numbers(sequences)], self._fed[row_numbers(sequences)] = self._ready(sequences), 0

    def draft(self, sequences: Items[Sequence], counts: np.ndarray, choose: Choose) -> Tensor:
        """See ModuleDrafter.draft."""
        rows = row_numbers(sequences)
        lengths = np.array([len(sequence.tokens) for sequence in sequences])
        if int((lengths - self._ready(sequences)).sum()) > self._chunk:
            self._catch_up(sequences, lengths - 1)
        ready = self._ready(sequences)
        hidden = self._pass(rows, ready, lengths - ready)
        drafts = []
        pick = np.arange(len(rows))
        for k in range(1, int(counts.max()) + 1):
            keep = np.flatnonzero(counts[pick] >= k)
            pick, hidden = pick[keep], hidden[self._rows.tensor(keep)]
            if k > 1:
                hidden = self._pass(rows[pick], lengths[pick] + k - 2, np.ones(len(pick), dtype=np.int64))
            ids = choose(pick, self._model.logits(hidden), k - 1)
            self._rows.write(rows[pick], lengths[pick] + k - 1, ids.unsqueeze(1))
            drafts.append(ids.new_zeros(len(rows)).index_copy_(0, self._rows.tensor(pick), ids))
        self._length[rows], self._fed[rows] = lengths, counts - 1
        return torch.stack(drafts, dim=1)

    def _catch_up(self, sequences: Items[Sequence], ends: np.ndarray) -> None:
        """Cache the tokens before `ends` (R,), in chunks."""
        rows, ready = row_numbers(sequences), self._ready(sequences)
        share = max(1, self._chunk // len(sequences))
        while len(pick := np.flatnonzero(ends - ready > 0)):
            counts = np.minimum(ends - ready, share)[pick]
            self._pass(rows[pick], ready[pick], counts)
            ready[pick] += counts
        self._length[rows], self._fed[rows] = ready, 0

    def _ready(self, sequences: Items[Sequence]) -> np.ndarray:
        """How many first tokens of each sequence are cached; a row that has changed hands starts from nothing."""
        rows = row_numbers(sequences)
        ids = np.array([sequence.id for sequence in sequences])
        new = self._owner[rows] != ids
        self._owner[rows[new]], self._length[rows[new]], self._fed[rows[new]] = ids[new], 0, 0
        lengths = np.array([len(sequence.tokens) for sequence in sequences])
        accepted = lengths - self._length[rows] - 1
        return np.minimum(self._length[rows] + np.clip(accepted, 0, self._fed[rows]), lengths - 1)

    def _pass(self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Tensor:
        """Compute `counts` tokens of each row from `starts` on; the last state of each, (R, d)."""
        tokens = self._rows.read(rows, self._rows.window(starts, counts))
        hidden = self._model.decode_backbone(tokens, self._own.plan(rows, starts, counts))
        last = self._rows.tensor(counts - 1)
        return hidden[torch.arange(len(rows), device=hidden.device), last]
