"""From logits to the distribution that is sampled from: constraint, bias, penalties, temperature, top_k, top_p, min_p.

Works on R rows that want different things, at q positions each, all at once; what no row asks for costs nothing.
Target and drafts go through the same code, each position seeing the drafted tokens before it.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from mtp.decode.grammar import allowed_masks
from mtp.decode.penalties import counts_before, penalise
from mtp.decode.sequence import Sequence

NEVER = float("-inf")


class Processors:
    """The wishes of R sequences as tensors. Valid as long as they are the same sequences, in the same order."""

    def __init__(self, sequences: Items[Sequence], eos_ids: Items[int], vocab_size: int, device: torch.device) -> None:
        self._sequences = list(sequences)
        self._vocab_size = vocab_size
        self._device = device
        wishes = [sequence.request.sampling for sequence in self._sequences]
        self.greedy = self._column([wish.greedy for wish in wishes])
        self.all_greedy = all(wish.greedy for wish in wishes)
        self.seeds = np.array([sequence.seed for sequence in self._sequences], dtype=np.uint64)
        self._temperature = self._wish([wish.temperature or 1.0 for wish in wishes], 1.0)
        self._top_k = self._wish([wish.top_k or vocab_size for wish in wishes], vocab_size)
        self._top_p = self._wish([wish.top_p for wish in wishes], 1.0)
        self._min_p = self._wish([wish.min_p for wish in wishes], 0.0)
        self._repetition = self._column([wish.repetition_penalty for wish in wishes])
        self._presence = self._column([wish.presence_penalty for wish in wishes])
        self._frequency = self._column([wish.frequency_penalty for wish in wishes])
        self._penalised = any(wish.penalised for wish in wishes)
        self._bias = self._dense_bias() if any(wish.logit_bias for wish in wishes) else None
        self._stops = self._stop_mask(eos_ids) if any(wish.min_tokens for wish in wishes) else None
        self._min_tokens = self._column([wish.min_tokens for wish in wishes])
        self._constrained = any(wish.constrained for wish in wishes)

    def emitted(self) -> np.ndarray:
        """(R,) tokens of each row's output so far."""
        return np.array([sequence.emitted for sequence in self._sequences], dtype=np.int64)

    def probabilities(self, logits: Tensor, before: Tensor | None = None, first: int = 0) -> Tensor:
        """The distribution at q positions of each row.

        Args:
            logits: (R, q, V).
            before: (R, first + q - 1) tokens drafted after the last emitted one; position j sees first + j of them.
            first: how many drafts the first of the positions sees.

        Returns:
            (R, q, V) fp32; one-hot where temperature is 0.
        """
        logits = logits.float()
        if self._constrained:
            logits = self._constrain(logits, before, first)
        if self._bias is not None:
            logits = logits + self._bias
        if self._stops is not None:
            logits = self._without_early_stops(logits, self._stops, first)
        if self._penalised:
            logits = self._penalise(logits, before, first)
        if self.all_greedy:
            return one_hot(logits)
        best = one_hot(logits) if bool(self.greedy.any()) else None
        if self._temperature is not None:
            logits = logits / self._temperature
        probabilities = self._truncated(logits).softmax(-1)
        if self._min_p is not None:
            floor = probabilities.amax(-1, keepdim=True) * self._min_p
            probabilities = probabilities.masked_fill(probabilities < floor, 0.0)
            probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        return probabilities if best is None else torch.where(self.greedy, best, probabilities)

    def _constrain(self, logits: Tensor, before: Tensor | None, first: int) -> Tensor:
        states = [sequence.grammar for sequence in self._sequences]
        drafted = [[]] * len(states) if before is None else before.tolist()
        masks = allowed_masks(states, drafted, first, logits.shape[1], self._vocab_size)
        return logits.masked_fill(~torch.from_numpy(masks).to(logits.device), NEVER)

    def _truncated(self, logits: Tensor) -> Tensor:
        """Logits outside of top_k, and then outside of top_p, at -inf. The likeliest token always stays."""
        if self._top_k is None and self._top_p is None:
            return logits
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        if self._top_k is not None:
            rank = torch.arange(ordered.shape[-1], device=logits.device)
            ordered = ordered.masked_fill(rank >= self._top_k, NEVER)
        if self._top_p is not None:
            mass = ordered.softmax(-1)
            ordered = ordered.masked_fill(mass.cumsum(-1) - mass >= self._top_p, NEVER)
        return torch.full_like(logits, NEVER).scatter(-1, order, ordered)

    def _penalise(self, logits: Tensor, before: Tensor | None, first: int) -> Tensor:
        output = self._stacked(lambda sequence: sequence.counts.output if sequence.counts else None)
        seen = self._stacked(lambda sequence: sequence.counts.seen if sequence.counts else None)
        if before is not None and before.shape[1]:
            drafted = counts_before(before, self._vocab_size)[:, first:]
            output, seen = output + drafted, seen + drafted
        return penalise(logits, seen, output, self._repetition, self._presence, self._frequency)

    def _without_early_stops(self, logits: Tensor, stops: Tensor, first: int) -> Tensor:
        place = torch.from_numpy(self.emitted()).to(logits.device).view(-1, 1) + first
        place = place + torch.arange(logits.shape[1], device=logits.device)
        early = (place < self._min_tokens.view(-1, 1)).unsqueeze(-1)
        return logits.masked_fill(early & stops, NEVER)

    def _stop_mask(self, eos_ids: Items[int]) -> Tensor:
        mask = torch.zeros(len(self._sequences), 1, self._vocab_size, dtype=torch.bool)
        for row, sequence in enumerate(self._sequences):
            mask[row, 0, [*eos_ids, *sequence.request.sampling.stop_ids]] = True
        return mask.to(self._device)

    def _dense_bias(self) -> Tensor:
        bias = torch.zeros(len(self._sequences), 1, self._vocab_size)
        for row, sequence in enumerate(self._sequences):
            for token, value in sequence.request.sampling.logit_bias.items():
                bias[row, 0, token] = value
        return bias.to(self._device)

    def _stacked(self, of: "Callable[[Sequence], Tensor | None]") -> Tensor:
        nothing = torch.zeros(self._vocab_size, device=self._device)
        found = [of(sequence) for sequence in self._sequences]
        return torch.stack([nothing if counts is None else counts for counts in found]).unsqueeze(1)

    def _wish(self, values: list[float], neutral: float) -> Tensor | None:
        """A (R, 1, 1) tensor, or None when no row asks for anything."""
        return None if all(value == neutral for value in values) else self._column(values)

    def _column(self, values: Items[float]) -> Tensor:
        return torch.tensor(values, device=self._device).view(-1, 1, 1)


def one_hot(logits: Tensor) -> Tensor:
    """(..., V) -> 1 at the argmax, 0 elsewhere."""
    return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)


def one_hot_ids(ids: Tensor, vocab_size: int) -> Tensor:
    """ids (R,) -> certain distributions (R, V)."""
    return torch.zeros(len(ids), vocab_size, device=ids.device).scatter_(1, ids.unsqueeze(1), 1.0)
