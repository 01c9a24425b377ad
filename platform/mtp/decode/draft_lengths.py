"""The draft lengths that promise the most tokens a second, given chances and costs; no memory, no clock.

    maximise  sum_r (1 + A_r1 + A_r1 A_r2 + ...)  /  (verify(rows + drafts) + sum_k draft(rows that draft k))

A_rk is the chance that draft k of request r stands once those before it do. The sum runs over everybody in the batch,
since everybody waits for the pass.
"""

from collections.abc import Sequence as Items
from typing import NamedTuple

from mtp.decode.costs import StepCosts


class Choice(NamedTuple):
    """Draft lengths, and their tokens a second over those of standard decoding."""

    lengths: list[int]
    gain: float


class Others(NamedTuple):
    """Of a step, what is not for the controller to choose."""

    requests: int = 0
    tokens: int = 0
    """Theirs in the pass: one of each, and the drafts that some are to have."""
    left: int = 0
    """Requests of them that were left to standard decoding, and might as well draft."""


def step_cost(lengths: Items[int], fixed: int, costs: StepCosts) -> float:
    """Seconds of a step with these draft lengths, and so many tokens of others in its pass."""
    levels = [sum(length > k for length in lengths) for k in range(max(lengths, default=0))]
    return _cost(len(lengths) + sum(lengths) + fixed, levels, costs)


def _cost(tokens: int, levels: Items[int], costs: StepCosts) -> float:
    """Of a pass over so many tokens, and of the drafts before it: 1, 2, ... of so many requests."""
    return costs.verify(tokens) + sum(costs.draft(rows, k) for k, rows in enumerate(levels, start=1) if rows)


def best_lengths(chances: Items[Items[float]], others: Others, costs: StepCosts, margin: float) -> Choice:
    """The draft length of each request that maximises the expected tokens a second of all.

    Drafts are added in the order of their chance to be emitted, and the best number of them is kept: a request's later
    drafts are never likelier than its earlier ones, so each prefix of that order is a set of lengths.

    Args:
        chances: of each request, that draft k stands if all before it do.
        others: who is in the pass too. Each gets a token at least; what more its drafts bring is not counted.
        costs: seconds of passes and drafts.
        margin: drafts have to promise so many times the tokens a second of standard decoding.
    """
    ranked = []
    for row, own in enumerate(chances):
        reach = 1.0
        for k, chance in enumerate(own):
            reach *= chance
            ranked.append((-reach, k, row))
    ranked.sort()
    lengths, levels = [0] * len(chances), [0] * max((len(own) for own in chances), default=0)
    expected, tokens = float(len(chances) + others.requests), len(chances) + others.tokens
    standard = expected / costs.verify(tokens)
    best, best_rate = Choice(list(lengths), 1.0), margin * standard
    for gain, k, row in ranked:
        lengths[row], levels[k] = k + 1, levels[k] + 1
        expected, tokens = expected - gain, tokens + 1
        rate = expected / _cost(tokens, levels, costs)
        if rate > best_rate:
            best, best_rate = Choice(list(lengths), rate / standard), rate
    return best
