"""The objective as two nested loops over rows and positions: slow, obvious, and independent of the code it checks.

Nothing here is shared with mtp.objective. Log-probabilities come one position at a time from torch.log_softmax in
float64, gradients from autograd.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Reference:
    loss: Tensor
    loss_sums: list[float]
    weight_sums: list[float]
    counts: list[int]
    correct: list[int]
    agree: list[int]
    accepted: list[int]


def target_at(tokens, document, target_mask, row: int, slot: int, k: int) -> int | None:
    """The token that `slot` predicts at horizon k, or None where it predicts nothing."""
    length = len(tokens[row])
    if slot + k >= length:
        return None
    if document[row][slot] == -1 or document[row][slot] != document[row][slot + k]:
        return None
    if target_mask is not None and not target_mask[row][slot + k]:
        return None
    return int(tokens[row][slot + k])


def reference_denominators(tokens, document, target_mask, token_weights, n: int, reduction: str) -> list[float]:
    totals = []
    for k in range(1, n + 1):
        total = 0.0
        for row in range(len(tokens)):
            for slot in range(len(tokens[row])):
                if reduction == "paper":
                    total += document[row][slot] != -1
                    continue
                target = target_at(tokens, document, target_mask, row, slot, k)
                if target is not None:
                    total += 1.0 if token_weights is None else float(token_weights[target])
        totals.append(float(total))
    return totals


def reference_objective(
    hiddens: list[Tensor],
    heads: list[Tensor],
    tokens,
    document,
    target_mask,
    token_weights,
    lambdas: list[float],
    denominators: list[float],
) -> Reference:
    n, rows, length = len(hiddens), len(tokens), len(tokens[0])
    zeros = [0] * n
    result = Reference(
        torch.zeros((), dtype=torch.float64), [0.0] * n, [0.0] * n, list(zeros), list(zeros), list(zeros), list(zeros)
    )
    for row in range(rows):
        for slot in range(length):
            whole = True
            for k in range(1, n + 1):
                target = target_at(tokens, document, target_mask, row, slot, k)
                if target is None:
                    continue
                logits = hiddens[k - 1][row, slot].double() @ heads[k - 1].double().T
                own = hiddens[0][row, slot + k - 1].double() @ heads[0].double().T
                nll = -torch.log_softmax(logits, dim=-1)[target]
                weight = 1.0 if token_weights is None else float(token_weights[target])
                if denominators[k - 1] > 0:
                    result.loss = result.loss + lambdas[k - 1] * weight * nll / denominators[k - 1]
                result.loss_sums[k - 1] += weight * nll.item()
                result.weight_sums[k - 1] += weight
                result.counts[k - 1] += 1
                result.correct[k - 1] += int(logits.argmax()) == target
                agrees = int(logits.argmax()) == int(own.argmax())
                whole = whole and agrees
                result.agree[k - 1] += agrees
                result.accepted[k - 1] += whole
    return result
