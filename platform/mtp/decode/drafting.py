"""Who drafts for whom: chooses each request's draft length, runs the drafters, keeps the drafts' distributions.

The drafted ids themselves stand behind each row's tokens (rows.py), where the next target pass reads them.
"""

import time
from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from mtp.decode.acceptance import Drafted
from mtp.decode.controller import DraftController
from mtp.decode.draft_model import DraftModel
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
        draft_model: DraftModel | None = None,
        controller: DraftController | None = None,
    ) -> None:
        self._modules = modules
        self._draft_model = draft_model
        self._controller = controller
        self._rows = rows
        self._verifier = verifier
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._stats = stats
        self._lookups = PromptLookups()
        self._q: Tensor | None = None

    def fill(self, sequences: Items[Sequence], starts: np.ndarray, counts: np.ndarray, hidden: Tensor) -> None:
        """A chunk of known tokens was computed; see ModuleDrafter.fill."""
        if (drafting := _with_draft_model(sequences)) and self._draft_model is not None:
            self._draft_model.fill(drafting)
        pick = _with_modules(sequences)
        if self._modules is None or not pick:
            return
        self._modules.fill(
            [sequences[place] for place in pick], starts[pick], counts[pick], _some(hidden, pick, counts)
        )

    def remember(self, sequences: Items[Sequence], starts: np.ndarray, counts: np.ndarray, hidden: Tensor) -> None:
        """A verifying pass was made; see ModuleDrafter.remember."""
        pick = _with_modules(sequences)
        if self._modules is None or not pick:
            return
        self._modules.remember(
            [sequences[place] for place in pick], starts[pick], counts[pick], _some(hidden, pick, counts)
        )

    def take(self, sequences: Items[Sequence], counts: np.ndarray, tokens: Tensor) -> Drafted:
        """The drafts that a pass over `tokens` (R, K + 1) verifies."""
        drafted = tokens[:, 1:]
        q = None
        if self._q is not None and drafted.shape[1]:
            rows = torch.tensor([max(sequence.draft_row, 0) for sequence in sequences], device=tokens.device)
            q = self._q[rows, : drafted.shape[1]]
        return Drafted(drafted, torch.from_numpy(counts).to(tokens.device), q)

    def draft(self, sequences: Items[Sequence]) -> None:
        """Draft for every sequence that wants and can have drafts; to be called for all that go on, every step."""
        began = time.perf_counter()
        if (settled := _with_draft_model(sequences)) and self._draft_model is not None:
            self._draft_model.settle(settled)
        groups: dict[str, list[Sequence]] = {"modules": [], "draft_model": [], "lookup": []}
        for sequence, wanted in zip(sequences, self._lengths(sequences), strict=True):
            sequence.drafts = wanted
            if wanted:
                groups[_source(sequence)].append(sequence)
        parts = [self._timed(self._modules, groups["modules"], began)]
        parts.append(self._timed(self._draft_model, groups["draft_model"], time.perf_counter()))
        parts.append((None, [self._draft_by_lookup(sequence) for sequence in groups["lookup"]]))
        self._q = self._joined(parts)
        for place, sequence in enumerate(groups["modules"] + groups["draft_model"] + groups["lookup"]):
            sequence.draft_row = place
        self._stats.draft_seconds += time.perf_counter() - began

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._lookups.forget(sequence)

    def _lengths(self, sequences: Items[Sequence]) -> list[int]:
        """Drafts for each: as many as it asks for and has room for, or as many as the controller gives it."""
        wanted = [self._wanted(sequence) for sequence in sequences]
        if self._controller is None:
            return wanted
        chosen = [place for place, sequence in enumerate(sequences) if self._controller.controls(sequence)]
        if chosen:
            fixed = sum(1 + wanted[place] for place in range(len(sequences)) if place not in chosen)
            some = [sequences[place] for place in chosen]
            lengths = self._controller.choose(some, [wanted[place] for place in chosen], fixed)
            for place, length in zip(chosen, lengths, strict=True):
                wanted[place] = length
            for sequence in some:
                if self._controller.gave_up(sequence):
                    self._controller.leave(sequence)
                    sequence.stop_drafting()
        return wanted

    def _wanted(self, sequence: Sequence) -> int:
        room = min(sequence.remaining - 1, self._max_model_len - len(sequence.tokens))
        if self._draft_model is not None and _source(sequence) == "draft_model":
            room = max(0, min(room, self._draft_model.max_len - len(sequence.tokens)))
        wanted = min(sequence.draft_limit, room)
        if self._modules is not None and sequence.module_depth and self._modules.lags(sequence):
            return min(sequence.module_depth, room)
        return wanted

    def _timed(
        self, drafter: ModuleDrafter | DraftModel | None, sequences: list[Sequence], began: float
    ) -> tuple[Tensor | None, list[list[int]] | Tensor]:
        """q (R, K, V) of the drafts, or None if all of them are certain, and their ids (R, K).

        `began`: when the work on them did; for modules the decision about how many there are is part of it.
        """
        if not sequences:
            return None, []
        if drafter is None:
            raise RuntimeError("a sequence wants a drafter that the engine does not run")
        drafted = self._draft_by_model(drafter, sequences)
        seconds = time.perf_counter() - began
        if self._controller is not None and drafter is self._modules:
            self._controller.drafted(seconds)
        for sequence in sequences:
            sequence.stats.draft_seconds += seconds
        return drafted

    def _draft_by_model(
        self, drafter: ModuleDrafter | DraftModel, sequences: list[Sequence]
    ) -> tuple[Tensor | None, Tensor]:
        """See _timed."""
        counts = np.array([sequence.drafts for sequence in sequences])
        certain = self._verifier.processors(sequences) is None
        if certain and isinstance(drafter, ModuleDrafter):
            return None, drafter.draft_greedily(sequences, counts)
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

        ids = drafter.draft(sequences, counts, choose)
        return (torch.stack(distributions, dim=1) if distributions else None), ids

    def _draft_by_lookup(self, sequence: Sequence) -> list[int]:
        ids = self._lookups.draft(sequence, sequence.drafts)
        sequence.drafts = len(ids)
        if ids:
            start = np.array([len(sequence.tokens)])
            self._rows.write(row_numbers([sequence]), start, torch.tensor([ids]).to(self._rows.tokens.device))
        return ids

    def _joined(self, parts: list[tuple[Tensor | None, list[list[int]] | Tensor]]) -> Tensor | None:
        """The q of all parts, rows below rows, with one-hot rows for certain drafts; None if all are certain."""
        known = [q for q, _ in parts if q is not None]
        if not known:
            return None
        lists = [ids if isinstance(ids, list) else ids.tolist() for _, ids in parts]
        longest = max(len(row) for rows in lists for row in rows)
        joined = known[0].new_zeros(sum(map(len, lists)), longest, self._vocab_size)
        start = 0
        for (q, _), rows in zip(parts, lists, strict=True):
            if q is not None:
                joined[start : start + len(rows), : q.shape[1]] = q
            else:
                for row, ids in enumerate(rows, start=start):
                    joined[row, range(len(ids)), ids] = 1.0
            start += len(rows)
        return joined


def _source(sequence: Sequence) -> str:
    if sequence.module_depth:
        return "modules"
    return "draft_model" if sequence.request.speculation.decoder == "draft_model" else "lookup"


def _with_draft_model(sequences: Items[Sequence]) -> list[Sequence]:
    return [sequence for sequence in sequences if _source(sequence) == "draft_model"]


def _with_modules(sequences: Items[Sequence]) -> list[int]:
    return [place for place, sequence in enumerate(sequences) if sequence.module_depth]


def _some(hidden: Tensor, pick: list[int], counts: np.ndarray) -> Tensor:
    """hidden (B, q, d) of the picked rows, as wide as the widest of them."""
    if len(pick) == len(hidden):
        return hidden
    return hidden[torch.tensor(pick, device=hidden.device), : int(counts[pick].max())]


def _spread(values: Tensor, pick: np.ndarray, total: int) -> Tensor:
    """Values of picked rows, (P, ...), as (total, ...) with zeros in the other rows."""
    spread = values.new_zeros(total, *values.shape[1:])
    return spread.index_copy_(0, torch.from_numpy(pick).to(values.device), values)
