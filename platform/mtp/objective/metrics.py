"""The per-horizon metrics of training and evaluation, from sums that can be added over micro-batches and ranks.

Knows the layout of the sums that the objective returns; knows nothing of how they were counted or communicated.
"""

from collections.abc import Sequence

from torch import Tensor

SUMS = ("loss", "weight", "count", "correct", "agree", "accepted")
"""The rows of a sums tensor (6, n): summed loss, summed weights, valid positions, positions where the target / the
model's own argmax has the largest logit, and where horizons 2..k all do (a whole draft of k-1 tokens is accepted)."""


def horizon_metrics(sums: Tensor) -> dict[str, float]:
    """{loss_h1.., top1_h1.., agreement_h2.., predicted_tokens_per_step} of a (6, n) sums tensor.

    A horizon that had no valid position reports 0.
    """
    table = dict(zip(SUMS, sums.double().tolist(), strict=True))
    n = sums.shape[1]
    metrics: dict[str, float] = {}
    for k in range(1, n + 1):
        metrics[f"loss_h{k}"] = _ratio(table["loss"][k - 1], table["weight"][k - 1])
        metrics[f"top1_h{k}"] = _ratio(table["correct"][k - 1], table["count"][k - 1])
    for k in range(2, n + 1):
        metrics[f"agreement_h{k}"] = _ratio(table["agree"][k - 1], table["count"][k - 1])
    whole_drafts = [_ratio(table["accepted"][k], table["count"][k]) for k in range(1, n)]
    metrics["predicted_tokens_per_step"] = 1.0 + sum(whole_drafts)
    return metrics


def conditional_rates(whole_drafts: Sequence[float]) -> list[float]:
    """a_2, a_3, ...: how often draft k is accepted, given that those before it were.

    `whole_drafts` holds how often drafts 2..k are all accepted; each rate is its quotient with the one before.
    """
    return [_ratio(now, before) for before, now in zip([1.0, *whole_drafts], whole_drafts, strict=False)]


def expected_tokens_per_step(rates: Sequence[float]) -> float:
    """1 + a2 + a2*a3 + ...: the tokens a target pass emits when draft k is accepted at rate a_k after the others.

    >>> expected_tokens_per_step([0.7, 0.4, 0.2])
    2.036
    """
    total, product = 1.0, 1.0
    for rate in rates:
        product *= rate
        total += product
    return total


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
