"""Which drafts stand: vectorised over the batch, each row with its own number of drafts.

    exact      accept x_i with probability min(1, p_i(x_i) / q_i(x_i)); at the first rejection emit from
               norm(max(p_i - q_i, 0)); after the last acceptance emit from the next p (Leviathan et al. 2023).
               Greedy: accept while the draft is the argmax, then emit the argmax. Seeded: the target's token is a
               function of p, the seed and the position (sampler.race), so that it is the same with any drafts or none;
               accept while the draft is that token, then emit it (verify_greedy again).
    threshold  accept while p_i(x_i) > tau; then emit from p.                                             lossy
    typical    accept while p_i(x_i) > min(epsilon, delta exp(-H(p_i))) (Medusa); then emit from p.       lossy
    unverified accept all.                                                                                lossy

p and q come from the processors; models, caches and requests are not known here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp.decode.sampler import draw


@dataclass(frozen=True)
class Verdict:
    """What a pass emits: the first `accepted` drafts of a row and one token of the target's own."""

    tokens: Tensor
    """(R, K + 1) int64; a row's first accepted + 1 entries count."""
    accepted: Tensor
    """(R,) int64."""


@dataclass(frozen=True)
class Drafted:
    """Drafts of R rows, padded to K."""

    tokens: Tensor
    """(R, K) int64."""
    counts: Tensor
    """(R,) int64: how many of a row's K count."""
    probabilities: Tensor | None
    """(R, K, V): q, the distributions that the drafts were drawn from; None where each was certain (one-hot)."""


@dataclass(frozen=True)
class Thresholds:
    """Parameters of the lossy rules, (R, 1) each."""

    tau: Tensor
    epsilon: Tensor
    delta: Tensor


def verify_greedy(choices: Tensor, drafted: Drafted) -> Verdict:
    """The exact rule where the target's tokens (R, K + 1) are certain: the argmax, or what the seed picks from p."""
    if not drafted.tokens.shape[1]:
        return Verdict(choices, torch.zeros_like(drafted.counts))
    return Verdict(choices, _leading(drafted.tokens == choices[:, :-1], drafted.counts))


def verify_exact(p: Tensor, drafted: Drafted, accept: Tensor, emit: Tensor) -> Verdict:
    """The exact rule.

    Args:
        p: (R, K + 1, V) target distributions.
        drafted: with q.
        accept: (R, K) uniform numbers that decide on the drafts.
        emit: (R, K + 1) uniform numbers; the one at the first position not accepted draws the target's token.
    """
    ids = drafted.tokens.unsqueeze(-1)
    p_of_draft = p[:, :-1].gather(-1, ids).squeeze(-1)
    q = drafted.probabilities
    q_of_draft = torch.ones_like(p_of_draft) if q is None else q.gather(-1, ids).squeeze(-1)
    accepted = _leading(accept * q_of_draft < p_of_draft, drafted.counts)
    weights = _at(p, accepted)
    rejected = accepted < drafted.counts
    if bool(rejected.any()):
        weights = _residual(weights, drafted, accepted, rejected)
    return _with_emission(drafted, accepted, weights, emit)


def verify_threshold(p: Tensor, drafted: Drafted, emit: Tensor, thresholds: Thresholds) -> Verdict:
    """Lossy: accept while p(x) > tau."""
    return _verify_by_bound(p, drafted, emit, lambda _: thresholds.tau)


def verify_typical(p: Tensor, drafted: Drafted, emit: Tensor, thresholds: Thresholds) -> Verdict:
    """Lossy: Medusa's typical acceptance."""

    def bound(p_drafted: Tensor) -> Tensor:
        entropy = torch.special.entr(p_drafted).sum(-1)
        return torch.minimum(thresholds.epsilon, thresholds.delta * torch.exp(-entropy))

    return _verify_by_bound(p, drafted, emit, bound)


def verify_nothing(p: Tensor, drafted: Drafted, emit: Tensor) -> Verdict:
    """Lossy: every draft stands."""
    return _with_emission(drafted, drafted.counts, _at(p, drafted.counts), emit)


def _verify_by_bound(p: Tensor, drafted: Drafted, emit: Tensor, bound: Callable[[Tensor], Tensor]) -> Verdict:
    p_of_draft = p[:, :-1].gather(-1, drafted.tokens.unsqueeze(-1)).squeeze(-1)
    accepted = _leading(p_of_draft > bound(p[:, :-1]), drafted.counts)
    return _with_emission(drafted, accepted, _at(p, accepted), emit)


def _leading(good: Tensor, counts: Tensor) -> Tensor:
    """How many of a row's first drafts are good with none bad before them: (R, K) bool, (R,) -> (R,)."""
    real = torch.arange(good.shape[1], device=good.device) < counts.unsqueeze(-1)
    return (good & real).cumprod(dim=1).sum(dim=1)


def _residual(p: Tensor, drafted: Drafted, accepted: Tensor, rejected: Tensor) -> Tensor:
    """norm(max(p - q, 0)) in rows that rejected a draft, p in the others; p (R, V) is that at the position.

    Where rounding leaves nothing of p - q, p itself stands in: there p = q to the last bit.
    """
    place = accepted.clamp(max=drafted.tokens.shape[1] - 1)
    if drafted.probabilities is None:
        rest = p.scatter(-1, drafted.tokens.gather(1, place.unsqueeze(-1)), 0.0)
    else:
        rest = (p - _at(drafted.probabilities, place)).clamp_(min=0.0)
    usable = rejected & (rest.sum(-1) > 0)
    return torch.where(usable.unsqueeze(-1), rest, p)


def _with_emission(drafted: Drafted, accepted: Tensor, weights: Tensor, emit: Tensor) -> Verdict:
    """Put a token drawn from `weights` (R, V) behind each row's accepted drafts."""
    place = accepted.unsqueeze(-1)
    own = draw(weights, emit.gather(1, place).squeeze(-1))
    tokens = torch.cat((drafted.tokens, drafted.tokens.new_zeros(len(own), 1)), dim=1)
    return Verdict(tokens.scatter(1, place, own.unsqueeze(-1)), accepted)


def _at(values: Tensor, place: Tensor) -> Tensor:
    """values (R, n, V) at position place (R,) of each row -> (R, V)."""
    return values[torch.arange(len(place), device=place.device), place]
