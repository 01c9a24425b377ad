"""From a pass's logits to what each request emits: groups the rows by acceptance rule and calls it.

Rows that are plainly greedy (the usual case) need one argmax and nothing else. Every other row goes through its
processors. Knows sequences and rules; not models or caches.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtp.decode import noise
from mtp.decode.acceptance import (
    Drafted,
    Thresholds,
    Verdict,
    verify_exact,
    verify_greedy,
    verify_nothing,
    verify_threshold,
    verify_typical,
)
from mtp.decode.processors import Processors
from mtp.decode.sampler import draw, race
from mtp.decode.sequence import Sequence


@dataclass(frozen=True)
class Emission:
    """A verdict on the host."""

    tokens: list[list[int]]
    """Of each row: the accepted drafts, then the target's own token."""
    accepted: list[int]
    finite: list[bool]
    """False where a position that counts had a logit that is NaN or infinite."""


class Verifier:
    """Decides what stands; remembers the processors of the batch while it stays the same."""

    def __init__(self, eos_ids: tuple[int, ...], vocab_size: int, device: torch.device) -> None:
        self._eos_ids = eos_ids
        self._vocab_size = vocab_size
        self._device = device
        self._processors: dict[tuple[int, ...], Processors] = {}

    def processors(self, sequences: Items[Sequence]) -> Processors | None:
        """The processors of the batch; None if all of it is plainly greedy."""
        if all(sequence.request.sampling.plain_greedy for sequence in sequences):
            return None
        key = tuple(sequence.id for sequence in sequences)
        if key not in self._processors:
            if len(self._processors) >= 8:
                self._processors.clear()
            self._processors[key] = Processors(sequences, self._eos_ids, self._vocab_size, self._device)
        return self._processors[key]

    def greedy(self, sequences: Items[Sequence]) -> bool:
        """Whether the argmax of the logits decides on every token."""
        return all(sequence.request.sampling.plain_greedy and _rule(sequence) == "exact" for sequence in sequences)

    def verify(self, sequences: Items[Sequence], logits: Tensor, drafted: Drafted) -> tuple[Verdict, Emission]:
        """logits (R, K + 1, V) of the last token and the drafts of each row -> what each row emits."""
        peak, choices = logits.max(dim=-1)
        if self.greedy(sequences):
            verdict = verify_greedy(choices, drafted)
        else:
            verdict = self._verify_by_rule(sequences, logits, drafted)
        return verdict, _to_host(verdict, peak)

    def choose(self, sequences: Items[Sequence], logits: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One draft a row: ids (R,), and q (R, V) unless all rows are plainly greedy.

        Args:
            sequences: R of them.
            logits: (R, V) of the draft.
            before: (R, k) drafts already made in this step.
        """
        processors = self.processors(sequences)
        if processors is None:
            return logits.argmax(-1), None
        place = 0 if before is None else before.shape[1]
        q = processors.probabilities(logits.unsqueeze(1), before, first=place).squeeze(1)
        return self._drawn(sequences, processors, q, place), q

    def _drawn(self, sequences: Items[Sequence], processors: Processors, q: Tensor, place: int) -> Tensor:
        """Draft number `place` of each row: seeded ones by the numbers that will decide on it, others by their own."""
        ids = draw(q, self._numbers(processors, 1, noise.DRAFT, place).squeeze(1))
        coupled = [row for row, sequence in enumerate(sequences) if _rule(sequence) == "coupled"]
        if coupled:
            ids[coupled] = race(q[coupled], self._clocks(processors, coupled, 1, place).squeeze(1))
        return ids

    def _clocks(self, processors: Processors, rows: list[int], count: int, first: int = 0) -> Tensor:
        positions = processors.emitted()[rows, None] + np.arange(first, first + count)
        return noise.exponentials(processors.seeds[rows], positions, self._vocab_size, self._device)

    def _verify_by_rule(self, sequences: Items[Sequence], logits: Tensor, drafted: Drafted) -> Verdict:
        tokens = torch.zeros(logits.shape[:2], dtype=torch.int64, device=self._device)
        accepted = torch.zeros_like(drafted.counts)
        for rule in sorted({_rule(sequence) for sequence in sequences}):
            pick = [place for place, sequence in enumerate(sequences) if _rule(sequence) == rule]
            index = torch.tensor(pick, device=self._device)
            some = [sequences[place] for place in pick]
            part = drafted
            if len(pick) < len(sequences):
                q = None if drafted.probabilities is None else drafted.probabilities[index]
                part = Drafted(drafted.tokens[index], drafted.counts[index], q)
            verdict = self._apply(rule, some, logits[index], part)
            tokens[index], accepted[index] = verdict.tokens, verdict.accepted
        return Verdict(tokens, accepted)

    def _apply(self, rule: str, sequences: list[Sequence], logits: Tensor, drafted: Drafted) -> Verdict:
        processors = self.processors(sequences) or Processors(sequences, self._eos_ids, self._vocab_size, self._device)
        p = processors.probabilities(logits, drafted.tokens)
        if rule == "coupled":
            everyone = list(range(len(sequences)))
            return verify_greedy(race(p, self._clocks(processors, everyone, logits.shape[1])), drafted)
        emit = self._numbers(processors, logits.shape[1], noise.EMIT)
        if rule == "exact":
            return verify_exact(p, drafted, self._numbers(processors, logits.shape[1] - 1, noise.ACCEPT), emit)
        if rule == "unverified":
            return verify_nothing(p, drafted, emit)
        verify = verify_threshold if rule == "threshold" else verify_typical
        return verify(p, drafted, emit, self._thresholds(sequences))

    def _thresholds(self, sequences: list[Sequence]) -> Thresholds:
        wishes = [sequence.request.speculation for sequence in sequences]
        columns = [[wish.tau for wish in wishes], [wish.epsilon for wish in wishes], [wish.delta for wish in wishes]]
        return Thresholds(*torch.tensor(columns, device=self._device).unsqueeze(-1).unbind(0))

    def _numbers(self, processors: Processors, count: int, purpose: int, first: int = 0) -> Tensor:
        positions = processors.emitted()[:, None] + np.arange(first, first + count)
        return torch.from_numpy(noise.uniforms(processors.seeds, positions, purpose)).to(self._device)


def _rule(sequence: Sequence) -> str:
    """How a request's drafts are judged; a seeded request gets its tokens from its seed, whatever was drafted."""
    speculation, sampling = sequence.request.speculation, sequence.request.sampling
    if speculation.decoder == "parallel":
        return "unverified"
    seeded = sampling.seed is not None and not sampling.greedy
    return "coupled" if speculation.acceptance == "exact" and seeded else speculation.acceptance


def _to_host(verdict: Verdict, peak: Tensor) -> Emission:
    """What a verdict says, as plain numbers; from an accelerator in one transfer (all of it as exact float64)."""
    width = verdict.tokens.shape[1]
    if peak.device.type == "cpu":
        accepted, tokens, finite = verdict.accepted.tolist(), verdict.tokens.tolist(), peak.isfinite().tolist()
    else:
        packed = torch.cat(
            (verdict.accepted.unsqueeze(1).double(), verdict.tokens.double(), peak.double()), dim=1
        ).cpu()
        accepted, finite = packed[:, 0].long().tolist(), packed[:, 1 + width :].isfinite().tolist()
        tokens = packed[:, 1 : 1 + width].long().tolist()
    emitted = [row[: stand + 1] for row, stand in zip(tokens, accepted, strict=True)]
    good = [all(row[: stand + 1]) for row, stand in zip(finite, accepted, strict=True)]
    return Emission(emitted, accepted, good)
