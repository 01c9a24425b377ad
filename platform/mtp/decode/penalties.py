"""How often each token occurred, for requests with penalties. Kept only for those: it costs two vocabularies each."""

from collections.abc import Sequence

import torch
from torch import Tensor


class TokenCounts:
    """Counts over the vocabulary, of the output and of prompt and output together."""

    def __init__(self, prompt: Sequence[int], vocab_size: int, device: torch.device) -> None:
        self.output = torch.zeros(vocab_size, device=device)
        self.seen = torch.zeros(vocab_size, device=device)
        self.seen.index_fill_(0, torch.tensor(prompt, device=device), 1.0)

    def add(self, tokens: Sequence[int]) -> None:
        """Count tokens of the output."""
        ids = torch.tensor(tokens, device=self.output.device)
        self.output.index_add_(0, ids, torch.ones(len(tokens), device=self.output.device))
        self.seen.index_fill_(0, ids, 1.0)


def penalise(
    logits: Tensor, seen: Tensor, output: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:
    """Apply the three penalties.

    Args:
        logits: (R, q, V).
        seen: (R, q, V), above 0 where a token is in the prompt or in the output before the position.
        output: (R, q, V) counts in the output before the position.
        repetition: (R, 1, 1); positive logits of seen tokens are divided by it, negative ones multiplied.
        presence: (R, 1, 1), subtracted from tokens of the output.
        frequency: (R, 1, 1), subtracted once for each time.
    """
    scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(seen > 0, scaled, logits)
    return logits - frequency * output - presence * (output > 0)


def counts_before(drafts: Tensor, vocab_size: int) -> Tensor:
    """(R, K) drafted ids -> (R, K + 1, V): how often each token was drafted before position 0..K.

    Drafts [7, 7] give: nothing, one 7, two 7s.
    """
    rows, drafted = drafts.shape
    once = torch.zeros(rows, drafted + 1, vocab_size, device=drafts.device)
    once[:, 1:].scatter_(2, drafts.unsqueeze(-1), 1.0)
    return once.cumsum_(1)
