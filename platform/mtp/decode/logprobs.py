"""Log-probabilities for requests that ask for them: the model's own, before any processor."""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from mtp.decode.request import TokenLogprob
from mtp.decode.sequence import Sequence


def token_logprobs(logits: Tensor, ids: Items[int], top: int) -> list[TokenLogprob]:
    """logits (n, V) at the positions that chose `ids` (n,), and how many of the likeliest to name at each."""
    if not ids:
        return []
    scores = logits[: len(ids)].float().log_softmax(-1)
    chosen = scores.gather(1, torch.tensor(ids, device=scores.device).unsqueeze(1)).squeeze(1).tolist()
    best = scores.topk(top, dim=-1) if top else None
    if best is None:
        return [TokenLogprob(token, value) for token, value in zip(ids, chosen, strict=True)]
    return [
        TokenLogprob(token, value, tuple(zip(names, values, strict=True)))
        for token, value, names, values in zip(ids, chosen, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def add_prompt_logprobs(sequence: Sequence, start: int, logits: Tensor) -> None:
    """Extend sequence.prompt_logprobs by what the logits (n, V) of slots start.. say about the tokens after them.

    After a preemption the same slots come again; what is known already is left alone.
    """
    known, prompt = sequence.prompt_logprobs, sequence.request.prompt
    if known is None:
        raise RuntimeError("this request did not ask for prompt logprobs")
    skip = len(known) - 1 - start
    ids = list(prompt[len(known) : start + 1 + len(logits)])
    if skip >= 0 and ids:
        known.extend(token_logprobs(logits[skip:], ids, sequence.request.sampling.logprobs or 0))
