"""Who drafts for whom: chooses each request's draft length, runs the drafters, keeps the drafts' distributions.

The drafted ids themselves stand behind each row's tokens (rows.py), where the next target pass reads them.
"""

import time
from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from mtp.decode.acceptance import Drafted
from mtp.decode.module_drafter import ModuleDrafter
from mtp.decode.processors import one_hot_ids
from mtp.decode.prompt_lookup import PromptLookups
from mtp.decode.rows import Rows, row_numbers
from mtp.decode.sequence import Sequence
from mtp.decode.stats import DecodeStats
from mtp.decode.verification import Verifier


class Drafting:
    """Everything about drafts between two target passes."""

    def __init__(
        self,
        modules: ModuleDrafter | None,
        rows: Rows,
        verifier: Verifier,
        vocab_size: int,
        max_model_len: int,
        stats: DecodeStats,
    ) -> None:
        self._modules = modules
        self._rows = rows
        self._verifier = verifier
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._stats = stats
        self._lookups = PromptLookups()
        self._q: Tensor | None = None

    def fill(self, sequences: Items[Sequence], starts: np.ndarray, counts: np.ndarray, hidden: Tensor) -> None:
        """A chunk of known tokens was computed; see ModuleDrafter.fill."""
        pick = _with_modules(sequences)
        if self._modules is None or not pick:
            return
        self._modules.fill([sequences[place] for place in pick], starts[pick], counts[pick], _some(hidden, pick))

    def remember(self, sequences: Items[Sequence], starts: np.ndarray, counts: np.ndarray, hidden: Tensor) -> None:
        """A verifying pass was made; see ModuleDrafter.remember."""
        pick = _with_modules(sequences)
        if self._modules is None or not pick:
            return
        self._modules.remember([sequences[place] for place in pick], starts[pick], counts[pick], _some(hidden, pick))

    def take(self, sequences: Items[Sequence], counts: np.ndarray, tokens: Tensor) -> Drafted:
        """The drafts that a pass over `tokens` (R, K + 1) verifies."""
        drafted = tokens[:, 1:]
        q = None
        if self._q is not None and drafted.shape[1]:
            rows = torch.tensor([max(sequence.draft_row, 0) for sequence in sequences], device=tokens.device)
            q = self._q[rows, : drafted.shape[1]]
        return Drafted(drafted, torch.from_numpy(counts).to(tokens.device), q)

    def draft(self, sequences: Items[Sequence]) -> None:
        """Draft for every sequence that wants and can have drafts."""
        began = time.perf_counter()
        modules: list[Sequence] = []
        lookups: list[Sequence] = []
        for sequence in sequences:
            sequence.drafts = self._wanted(sequence)
            if sequence.drafts:
                (modules if sequence.module_depth else lookups).append(sequence)
        q = self._draft_by_modules(modules) if modules else None
        copied = [self._draft_by_lookup(sequence) for sequence in lookups]
        self._q = q if q is None or not lookups else self._joined(q, copied)
        for place, sequence in enumerate(modules + lookups):
            sequence.draft_row = place
        seconds = time.perf_counter() - began
        self._stats.draft_seconds += seconds
        for sequence in modules:
            sequence.stats.draft_seconds += seconds

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._lookups.forget(sequence)

    def _wanted(self, sequence: Sequence) -> int:
        room = min(sequence.remaining - 1, self._max_model_len - len(sequence.tokens))
        wanted = min(sequence.draft_limit, room)
        if self._modules is not None and sequence.module_depth and self._modules.lags(sequence):
            return min(sequence.module_depth, room)
        return wanted

    def _draft_by_modules(self, sequences: list[Sequence]) -> Tensor | None:
        """q (R, K, V) of the drafts, or None if all of them are certain."""
        if self._modules is None:
            raise RuntimeError("a sequence wants modules that the engine does not run")
        certain = self._verifier.processors(sequences) is None
        made: list[Tensor] = []
        distributions: list[Tensor] = []

        def choose(pick: np.ndarray, logits: Tensor, position: int) -> Tensor:
            everyone = len(pick) == len(sequences)
            some = sequences if everyone else [sequences[place] for place in pick]
            before = torch.stack(made, dim=1) if made else None
            if before is not None and not everyone:
                before = before[torch.from_numpy(pick).to(before.device)]
            ids, q = self._verifier.choose(some, logits, before)
            made.append(ids if everyone else _spread(ids, pick, len(sequences)))
            if not certain:
                q = one_hot_ids(ids, self._vocab_size) if q is None else q
                distributions.append(q if everyone else _spread(q, pick, len(sequences)))
            return ids

        counts = np.array([sequence.drafts for sequence in sequences])
        self._modules.draft(sequences, counts, choose)
        return torch.stack(distributions, dim=1) if distributions else None

    def _draft_by_lookup(self, sequence: Sequence) -> list[int]:
        ids = self._lookups.draft(sequence, sequence.drafts)
        sequence.drafts = len(ids)
        if ids:
            start = np.array([len(sequence.tokens)])
            self._rows.write(row_numbers([sequence]), start, torch.tensor([ids]).to(self._rows.tokens.device))
        return ids

    def _joined(self, q: Tensor, copied: list[list[int]]) -> Tensor:
        """q (R, K, V) with rows for copied drafts below, each certain."""
        longest = max(q.shape[1], *(len(ids) for ids in copied))
        joined = q.new_zeros(len(q) + len(copied), longest, q.shape[2])
        joined[: len(q), : q.shape[1]] = q
        for row, ids in enumerate(copied, start=len(q)):
            joined[row, range(len(ids)), ids] = 1.0
        return joined


def _with_modules(sequences: Items[Sequence]) -> list[int]:
    return [place for place, sequence in enumerate(sequences) if sequence.module_depth]


def _some(hidden: Tensor, pick: list[int]) -> Tensor:
    return hidden if len(pick) == len(hidden) else hidden[torch.tensor(pick, device=hidden.device)]


def _spread(values: Tensor, pick: np.ndarray, total: int) -> Tensor:
    """Values of picked rows, (P, ...), as (total, ...) with zeros in the other rows."""
    spread = values.new_zeros(total, *values.shape[1:])
    return spread.index_copy_(0, torch.from_numpy(pick).to(values.device), values)
