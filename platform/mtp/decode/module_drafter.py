"""Drafts from the model's own prediction modules, and the upkeep of the modules' caches.

After a pass, the backbone's states of the tokens that stand are known. For a sequence of L tokens (the last not yet
in the backbone) the newest state is that of slot L-2, and module k drafts token L+k-1 from there.

Chained kinds (sequential): module k needs h^{k-1} and token i+k at slot i. Its entries are final where that token is
the sequence's own: slots below L-k. The k-1 slots after them are built on drafts, so every step starts at the first
slot that is not final, and builds anew what was built on drafts. Other kinds (parallel, independent) see h^0 alone:
all they make is final, and one call gives all horizons.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from mtp.decode.hidden_ring import HiddenRing
from mtp.decode.network import Network, Window
from mtp.decode.rows import Rows, row_numbers
from mtp.decode.sequence import Sequence
from mtp.model import MTPModel

LAG_LIMIT = 96
"""A module that was not run for so many slots is run, so that its inputs do not fall out of the ring."""

Choose = Callable[[np.ndarray, Tensor, int], Tensor]
"""(indices into the sequences, logits (R, V), draft position from 0) -> drafted ids (R,)."""


class ModuleDrafter:
    """Up to `depth` drafts a step. For chained kinds `depth` may exceed the trained modules: the last one recurses."""

    def __init__(
        self, model: MTPModel, network: Network, rows: Rows, depth: int, size: int, vocab_size: int | None
    ) -> None:
        """`vocab_size`: drafts come from the first so many ids; None: from all."""
        weight = model.model.embed_tokens.weight
        self._config = model.config
        self._network = network
        self._vocab_size = vocab_size
        self._rows = rows
        self.chained = model.prediction.chained
        """Whether module k drafts from what module k-1 made of its draft."""
        self._levels = depth if self.chained else 1
        span = LAG_LIMIT + 2 * depth + 2
        self._ring = HiddenRing(self._levels, size, span, model.config.hidden_size, weight.device, weight.dtype)
        self.greedy = network.greedy(self._ring, vocab_size)
        """What makes greedy steps at one go, and the drafts in them where modules are chained; None: nothing does."""

    def fill(self, sequences: Items[Sequence], starts: np.ndarray, counts: np.ndarray, hidden: Tensor) -> None:
        """Bring the modules' caches up to a chunk of known tokens.

        Args:
            sequences: B, with `computed` = starts + counts already.
            starts: (B,) first slot of the chunk; all slots before it are final in every module.
            counts: (B,) tokens of the chunk.
            hidden: (B, q, d) h^0 of the chunk.
        """
        rows = row_numbers(sequences)
        lengths = np.array([len(sequence.tokens) for sequence in sequences])
        depths = np.array([sequence.module_depth for sequence in sequences])
        for k in range(1, int(depths.max()) + 1):
            ends = np.minimum(starts + counts, lengths - k)
            self._carry(k - 1, rows, starts, counts, hidden)
            pick = np.flatnonzero((depths >= k) & (ends > starts))
            if not len(pick):
                break
            first, some = starts[pick], (ends - starts)[pick]
            hidden = hidden[self._index(pick), : some.max()]
            rows, starts, counts, lengths, depths = rows[pick], first, counts[pick], lengths[pick], depths[pick]
            hidden = self._run_module(k, rows, first, some, hidden)
            self._rows.filled[rows, k - 1] = first + some

    def remember(self, sequences: Items[Sequence], starts: np.ndarray, counts: np.ndarray, hidden: Tensor) -> None:
        """Keep h^0 (B, q, d) of a verifying pass over `counts` (B,) slots from `starts` (B,) on."""
        positions = self._rows.window(starts, counts)
        valid = np.arange(positions.shape[1]) < counts[:, None]
        self._ring.write(0, self._ring.places(row_numbers(sequences), positions, valid), hidden)

    def lags(self, sequence: Sequence) -> bool:
        """Whether a module of this sequence must run before its inputs are lost."""
        filled = self._rows.filled[sequence.row, : sequence.module_depth]
        return sequence.computed - int(filled.min()) > LAG_LIMIT

    def draft(self, sequences: Items[Sequence], counts: np.ndarray, choose: Choose) -> Tensor:
        """Draft counts[b] >= 1 tokens for each sequence; writes them behind its tokens.

        Returns:
            (R, max(counts)) ids; where a row has fewer, any id.
        """
        rows = row_numbers(sequences)
        lengths = np.array([len(sequence.tokens) for sequence in sequences])
        step = self._draft_chain if self.chained else self._draft_horizons
        whole = any(sequence.grammar is not None for sequence in sequences)  # a grammar may want any token
        return step(rows, lengths, counts, choose, whole)

    def draft_greedily(self, sequences: Items[Sequence], counts: np.ndarray) -> Tensor:
        """As `draft`, where every draft is the most likely token: at one go where the network can."""
        if self.greedy is None or not self.chained:
            return self.draft(sequences, counts, lambda _, logits, __: logits.argmax(-1))
        rows, lengths = row_numbers(sequences), np.array([len(sequence.tokens) for sequence in sequences])
        self.greedy.draft(rows, lengths, counts)
        return self._rows.read(rows, self._rows.window(lengths, np.full_like(lengths, counts.max())))

    def _draft_chain(
        self, rows: np.ndarray, lengths: np.ndarray, counts: np.ndarray, choose: Choose, whole: bool
    ) -> Tensor:
        drafts = []
        for k in range(1, int(counts.max()) + 1):
            pick = np.flatnonzero(counts >= k)
            chosen, length = rows[pick], lengths[pick]
            starts = self._rows.filled[chosen, k - 1]
            window = length - 1 - starts
            positions = self._rows.window(starts, window)
            hidden = self._ring.read(k - 1, self._ring.places(chosen, positions), positions.shape)
            hidden = self._run_module(k, chosen, starts, window, hidden)
            if k < self._levels:
                valid = np.arange(positions.shape[1]) < window[:, None]
                self._ring.write(k, self._ring.places(chosen, positions, valid), hidden)
            self._rows.filled[chosen, k - 1] = np.maximum(length - k, 0)
            logits = self._logits(_last(hidden, window), self._horizon(k), whole)
            drafts.append(self._place(pick, chosen, length + k - 1, choose(pick, logits, k - 1), len(rows)))
        return torch.stack(drafts, dim=1)

    def _draft_horizons(
        self, rows: np.ndarray, lengths: np.ndarray, counts: np.ndarray, choose: Choose, whole: bool
    ) -> Tensor:
        starts = self._rows.filled[rows, 0]
        window = lengths - 1 - starts
        positions = self._rows.window(starts, window)
        hidden = self._ring.read(0, self._ring.places(rows, positions), positions.shape)
        states = self._network.horizons(hidden, Window(rows, starts, window))
        self._rows.filled[rows, 0] = lengths - 1
        drafts = []
        for k in range(1, int(counts.max()) + 1):
            pick = np.flatnonzero(counts >= k)
            state = _last(states[k - 1], window)[self._index(pick)]
            ids = choose(pick, self._logits(state, k + 1, whole), k - 1)
            drafts.append(self._place(pick, rows[pick], lengths[pick] + k - 1, ids, len(rows)))
        return torch.stack(drafts, dim=1)

    def _run_module(self, k: int, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, hidden: Tensor) -> Tensor:
        """Module k (or all horizons at once, for their caches) over slots from `starts` on: h^k (B, q, d)."""
        window = Window(rows, starts, counts)
        if not self.chained:
            self._network.horizons(hidden, window)
            return hidden
        tokens = self._rows.read(rows, self._rows.window(starts, counts) + k)
        return self._network.module(k, hidden, tokens, window)

    def _carry(self, level: int, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, hidden: Tensor) -> None:
        """Keep the end of a chunk's states: the slots that are not final in the next module yet."""
        kept = min(self._levels + 1, hidden.shape[1])
        places = np.minimum(counts, hidden.shape[1])[:, None] - kept + np.arange(kept)
        valid = places >= 0
        index = torch.from_numpy(np.maximum(places, 0)).to(hidden.device)
        tail = hidden[torch.arange(len(rows), device=hidden.device).unsqueeze(1), index]
        self._ring.write(level, self._ring.places(rows, starts[:, None] + np.maximum(places, 0), valid), tail)

    def _place(self, pick: np.ndarray, rows: np.ndarray, starts: np.ndarray, ids: Tensor, total: int) -> Tensor:
        """Write one draft a row behind its tokens, and spread the ids of picked rows over all."""
        self._rows.write(rows, starts, ids.unsqueeze(1))
        if len(pick) == total:
            return ids
        return ids.new_zeros(total).index_copy_(0, self._index(pick), ids)

    def _logits(self, state: Tensor, horizon: int, whole: bool) -> Tensor:
        """states (R, d) -> logits (R, V), -inf for ids that are not drafted."""
        size = self._config.vocab_size
        if whole or self._vocab_size is None or self._vocab_size >= size:
            return self._network.logits(state, horizon)
        logits = state.new_full((len(state), size), float("-inf"))
        logits[:, : self._vocab_size] = self._network.logits(state, horizon, first=self._vocab_size)
        return logits

    def _horizon(self, k: int) -> int:
        return min(k + 1, self._config.n_future)

    def _index(self, pick: np.ndarray) -> Tensor:
        return self._rows.tensor(pick)


def _last(hidden: Tensor, counts: np.ndarray) -> Tensor:
    """hidden (B, q, d) at each row's last real slot -> (B, d)."""
    if hidden.shape[1] == 1:
        return hidden[:, 0]
    last = torch.from_numpy(counts - 1).to(hidden.device)
    return hidden[torch.arange(len(counts), device=hidden.device), last]
