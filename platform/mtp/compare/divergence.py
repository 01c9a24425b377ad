"""How far an acceptance rule moves the output from exact sampling: computed, not sampled.

At a held-out position p is the model's distribution of a token and q the first draft's. What a rule emits there is
known in closed form, and so is its total variation from p; temperature 1, averaged over positions.

    exact      min(p, q) + (1 - sum min(p, q)) norm(max(p - q, 0))      = p
    parallel   q
    threshold  q [p > tau] + (sum of q where p <= tau) p
    typical    the same with the bound min(epsilon, delta exp(-H(p)))

Knows a model and rows; nothing of engines.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mtp.decode import Speculation
from mtp.model import MTPModel

Rule = Callable[[Tensor, Tensor], Tensor]
_DEFAULTS = Speculation()


def exact(p: Tensor, q: Tensor) -> Tensor:
    """What the exact rule emits; p, q (..., V) -> (..., V)."""
    common = torch.minimum(p, q)
    rest = (p - q).clamp(min=0)
    total = rest.sum(-1, keepdim=True)
    return common + torch.where(total > 0, (1 - common.sum(-1, keepdim=True)) * rest / total.clamp(min=1e-30), 0.0)


def unverified(p: Tensor, q: Tensor) -> Tensor:
    """What is emitted where every draft stands."""
    return q


def threshold(p: Tensor, q: Tensor) -> Tensor:
    """Accept while p(x) > tau."""
    return _bounded(p, q, torch.tensor(_DEFAULTS.tau))


def typical(p: Tensor, q: Tensor) -> Tensor:
    """Medusa's rule."""
    entropy = torch.special.entr(p).sum(-1, keepdim=True)
    return _bounded(p, q, torch.minimum(torch.tensor(_DEFAULTS.epsilon), _DEFAULTS.delta * torch.exp(-entropy)))


RULES: dict[str, Rule] = {"exact": exact, "parallel": unverified, "threshold": threshold, "typical": typical}


@torch.inference_mode()
def mean_divergence(model: MTPModel, tokens: Tensor, document: Tensor, rule: str) -> float:
    """Mean total variation over the positions of rows (R, T) whose second next token is in their document."""
    total, count = 0.0, 0
    for row, ordinals in zip(tokens.split(1), document.split(1), strict=True):
        first, second = model(row, ordinals)[:2]
        valid = (ordinals[:, 2:] == ordinals[:, :-2]) & (ordinals[:, 2:] >= 0)
        p = torch.softmax(model.logits(first, 1)[:, 1:-1][valid].double(), dim=-1)
        q = torch.softmax(model.logits(second, 2)[:, :-2][valid].double(), dim=-1)
        total += float((RULES[rule](p, q) - p).abs().sum() / 2)
        count += int(valid.sum())
    return total / max(count, 1)


def _bounded(p: Tensor, q: Tensor, bound: Tensor) -> Tensor:
    kept = torch.where(p > bound, q, 0.0)
    return kept + (1 - kept.sum(-1, keepdim=True)) * p
