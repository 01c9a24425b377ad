"""Decoding as the textbook has it, slow and obvious: every token from a full forward over the whole sequence."""

import torch
from torch import Tensor

from mtp.model import MTPModel


@torch.inference_mode()
def horizon_logits(model: MTPModel, tokens: list[int], slot: int, horizon: int) -> Tensor:
    """Logits (V,) of `horizon` at `slot`, from the training forward. Padding behind the sequence changes nothing."""
    padded = tokens + [0] * max(0, model.config.n_future - len(tokens))
    hidden = model(torch.tensor([padded]))[horizon - 1]
    return model.logits(hidden[:, slot : slot + 1], horizon)[0, 0]


def greedy(model: MTPModel, prompt: list[int], count: int) -> list[int]:
    """The argmax, token by token."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(horizon_logits(model, tokens, len(tokens) - 1, 1).argmax()))
    return tokens[len(prompt) :]


def drafts(model: MTPModel, tokens: list[int], count: int) -> list[int]:
    """What the modules draft behind `tokens`, of which the last is not in the backbone yet.

    The newest state is that of slot L-2. Horizon k+1 there predicts token L+k-1; chained modules see the drafts.
    """
    made: list[int] = []
    for k in range(1, count + 1):
        made.append(int(horizon_logits(model, tokens + made, len(tokens) - 2, k + 1).argmax()))
    return made


def speculative_greedy(model: MTPModel, prompt: list[int], count: int, most: int) -> tuple[list[int], list[int]]:
    """Draft, verify, accept with full forwards: the tokens, and how each came (0 = target, k = draft k)."""
    tokens, origins = list(prompt), []
    pending: list[int] = []
    while len(tokens) < len(prompt) + count:
        for position, draft in enumerate(pending, start=1):
            if int(horizon_logits(model, tokens, len(tokens) - 1, 1).argmax()) != draft:
                break
            tokens.append(draft)
            origins.append(position)
        tokens.append(int(horizon_logits(model, tokens, len(tokens) - 1, 1).argmax()))
        origins.append(0)
        room = len(prompt) + count - len(tokens)
        pending = drafts(model, tokens, min(most, room - 1)) if room > 1 else []
    return tokens[len(prompt) :][:count], origins[:count]
