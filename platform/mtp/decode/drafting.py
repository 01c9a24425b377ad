"""Who drafts for whom: decides on each request's draft length, and runs the drafters.

Lengths are decided at the end of a step, so that the next one can be planned; the drafts are made when it begins. They
stand behind each row's tokens (rows.py), where the target pass reads them.
"""

import time
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtp.decode.controller import DraftController
from mtp.decode.draft_model import DraftModel
from mtp.decode.module_drafter import ModuleDrafter
from mtp.decode.processors import one_hot_ids
from mtp.decode.prompt_lookup import PromptLookups
from mtp.decode.rows import Rows, row_numbers
from mtp.decode.sequence import Sequence
from mtp.decode.verification import Verifier

Part = tuple[list[int], Tensor | None, list[list[int]] | Tensor]
"""Which rows drafted together, the q (P, K, V) of their drafts or None where all are certain, and the ids (P, K)."""


@dataclass(frozen=True)
class Made:
    """Drafts of R rows."""

    left: np.ndarray
    """(R,): how many are left to the compiled step, which makes and verifies them at one go."""
    probabilities: Tensor | None
    """(R, K, V): see acceptance.Drafted."""
    seconds: float
    others_seconds: float
    """Of them, those of drafts that are not by modules: whether they pay is not the controller's business."""


class Drafting:
    """Everything about drafts between two target passes."""

    def __init__(
        self,
        modules: ModuleDrafter | None,
        rows: Rows,
        verifier: Verifier,
        vocab_size: int,
        max_model_len: int,
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
        self._lookups = PromptLookups()

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

    def decide(self, sequences: Items[Sequence]) -> None:
        """Decide how many drafts each sequence gets in its next step; to be called for all that go on, every step."""
        began = time.perf_counter()
        if (settled := _with_draft_model(sequences)) and self._draft_model is not None:
            self._draft_model.settle(settled)
        if not any(sequence.draft_limit for sequence in sequences):
            return  # none of them has drafts
        for sequence, wanted in zip(sequences, self._lengths(sequences), strict=True):
            sequence.drafts = wanted
        if self._controller is not None and any(sequence.drafts for sequence in sequences):
            self._controller.decided(time.perf_counter() - began)

    def draft(self, sequences: Items[Sequence], *, at_once: bool) -> Made:
        """Make the drafts that were decided on; `at_once`: but for chained modules', which the compiled step makes."""
        left, parts = np.zeros(len(sequences), dtype=np.int64), []
        if not any(sequence.drafts for sequence in sequences):
            return Made(left, None, 0.0, 0.0)
        began = time.perf_counter()
        pick = self._drafting(sequences, "modules")
        if pick and self._modules is not None:
            if at_once and self._modules.chained:
                left[pick] = [sequences[place].drafts for place in pick]
            else:
                parts.append(self._draft_by_model(self._modules, sequences, pick))
        own = time.perf_counter() - began
        pick = self._drafting(sequences, "draft_model")
        if pick and self._draft_model is not None:
            parts.append(self._draft_by_model(self._draft_model, sequences, pick))
        for place in self._drafting(sequences, "lookup"):
            parts.append(([place], None, [self._draft_by_lookup(sequences[place])]))
        seconds = time.perf_counter() - began
        return Made(left, self._joined(len(sequences), parts), seconds, seconds - own)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._lookups.forget(sequence)

    def _lengths(self, sequences: Items[Sequence]) -> list[int]:
        """Drafts for each: as many as it asks for and has room for, or as many as the controller gives it."""
        wanted = [self._wanted(sequence) for sequence in sequences]
        if self._controller is None:
            return wanted
        lengths = self._controller.choose(sequences, wanted)
        for sequence, length in zip(sequences, lengths, strict=True):
            if not length and self._controller.gave_up(sequence):
                self._controller.leave(sequence)
                sequence.stop_drafting()
        return lengths

    def _wanted(self, sequence: Sequence) -> int:
        room = min(sequence.remaining - 1, self._max_model_len - len(sequence.tokens))
        if self._draft_model is not None and _source(sequence) == "draft_model":
            room = max(0, min(room, self._draft_model.max_len - len(sequence.tokens)))
        wanted = min(sequence.draft_limit, room)
        if self._modules is not None and sequence.module_depth and self._modules.lags(sequence):
            return min(sequence.module_depth, room)
        return wanted

    @staticmethod
    def _drafting(sequences: Items[Sequence], source: str) -> list[int]:
        return [place for place, one in enumerate(sequences) if one.drafts and _source(one) == source]

    def _draft_by_model(
        self, drafter: ModuleDrafter | DraftModel, everyone: Items[Sequence], places: list[int]
    ) -> Part:
        """The drafts of the sequences at `places`."""
        sequences = [everyone[place] for place in places]
        counts = np.array([sequence.drafts for sequence in sequences])
        certain = self._verifier.processors(sequences) is None
        if certain and isinstance(drafter, ModuleDrafter):
            return places, None, drafter.draft_greedily(sequences, counts)
        made: list[Tensor] = []
        distributions: list[Tensor] = []

        def choose(pick: np.ndarray, logits: Tensor, position: int) -> Tensor:
            whole = len(pick) == len(sequences)
            some = sequences if whole else [sequences[place] for place in pick]
            before = torch.stack(made, dim=1) if made else None
            if before is not None and not whole:
                before = before[torch.from_numpy(pick).to(before.device)]
            ids, q = self._verifier.choose(some, logits, before)
            made.append(ids if whole else _spread(ids, pick, len(sequences)))
            if not certain:
                q = one_hot_ids(ids, self._vocab_size) if q is None else q
                distributions.append(q if whole else _spread(q, pick, len(sequences)))
            return ids

        ids = drafter.draft(sequences, counts, choose)
        return places, (torch.stack(distributions, dim=1) if distributions else None), ids

    def _draft_by_lookup(self, sequence: Sequence) -> list[int]:
        ids = self._lookups.draft(sequence, sequence.drafts)
        sequence.drafts = len(ids)
        if ids:
            start = np.array([len(sequence.tokens)])
            self._rows.write(row_numbers([sequence]), start, torch.tensor([ids]).to(self._rows.tokens.device))
        return ids

    def _joined(self, rows: int, parts: list[Part]) -> Tensor | None:
        """The q (R, K, V) of all parts, with one-hot rows for certain drafts; None if all are certain."""
        known = [q for _, q, _ in parts if q is not None]
        if not known:
            return None
        lists = [ids if isinstance(ids, list) else ids.tolist() for _, _, ids in parts]
        joined = known[0].new_zeros(rows, max(len(row) for some in lists for row in some), self._vocab_size)
        for (places, q, _), some in zip(parts, lists, strict=True):
            if q is not None:
                joined[places, : q.shape[1]] = q
            else:
                for place, ids in zip(places, some, strict=True):
                    joined[place, range(len(ids)), ids] = 1.0
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
