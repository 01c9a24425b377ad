"""The multi-token-prediction loss of a batch: targets, denominators, loss and its metrics.

    L_k = sum over valid i of w(t_{i+k}) * -log p_k(t_{i+k}) / denominator_k,    L = sum over k of lambda_k L_k

The caller adds the denominators up over its ranks and micro-batches and passes them back in, so that the loss does
not depend on how the global batch was cut up. Knows nothing of ranks, optimizers or what made the hidden states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp.config.objective import ObjectiveConfig
from mtp.objective.chunked_cross_entropy import linear_cross_entropy
from mtp.objective.targets import Targets, build_targets


@dataclass(frozen=True)
class ObjectiveOutput:
    """The loss of this batch, and detached sums (n,) over its valid positions, one entry a horizon."""

    loss: Tensor
    """() sum over k of lambda_k * loss_sums[k] / denominators[k]; carries the gradient."""
    loss_sums: Tensor
    """Sum of w * -log p_k(target)."""
    weight_sums: Tensor
    """Sum of w."""
    counts: Tensor
    """Valid positions."""
    correct: Tensor
    """Positions where horizon k's most likely token is the target."""
    agree: Tensor
    """Positions where it is the token that horizon 1 finds most likely there (entry 1 equals its count)."""
    accepted: Tensor
    """Positions where horizons 2..k all agree so: a draft of k-1 tokens would be accepted whole."""

    def sums(self) -> Tensor:
        """(6, n) float64 in the order of `metrics.SUMS`: add them over micro-batches and ranks."""
        rows = (self.loss_sums, self.weight_sums, self.counts, self.correct, self.agree, self.accepted)
        return torch.stack([row.double() for row in rows])


class MTPObjective:
    """The loss of DESIGN section 4 for horizons 1..n_future."""

    def __init__(self, config: ObjectiveConfig, n_future: int, token_weights: Tensor | None = None) -> None:
        """`token_weights`: (V,) from `token_importance`; None counts every token alike."""
        self.config = config
        self.n_future = n_future
        self.token_weights = token_weights

    def targets(self, tokens: Tensor, document: Tensor, target_mask: Tensor | None = None) -> Targets:
        """The target table of rows (B, T); see `build_targets`."""
        if self.token_weights is not None:
            self.token_weights = self.token_weights.to(tokens.device)
        return build_targets(tokens, document, self.n_future, target_mask, self.token_weights)

    def denominators(self, targets: Targets) -> Tensor:
        """(n,) this batch's part of what each L_k is divided by: add it up over the global batch.

        `reduction: mean` divides by the weights of the valid positions, `paper` by the T positions that hold a token,
        whether or not the horizon has a target there (DeepSeek-V3 report, eq. 24).
        """
        if self.config.reduction == "paper":
            return targets.positions.expand(self.n_future).clone()
        return targets.weights.sum(dim=(1, 2))

    def __call__(
        self,
        hiddens: Sequence[Tensor],
        heads: Sequence[Tensor],
        targets: Targets,
        lambdas: Tensor,
        denominators: Tensor,
    ) -> ObjectiveOutput:
        """The loss of one micro-batch.

        Args:
            hiddens: n tensors (B, T, d), horizon 1 first.
            heads: n tensors (V, d), the same object where shared.
            targets: of these rows.
            lambdas: (n,) the weights of the horizons now; see `lambdas_at`.
            denominators: (n,) of the global batch. A horizon of denominator 0 (no valid position) adds 0.
        """
        scale = torch.where(denominators > 0, lambdas.to(denominators) / denominators, 0.0)
        weights = targets.weights.flatten(1)
        valid = weights > 0
        walk = linear_cross_entropy(
            [hidden.reshape(-1, hidden.shape[-1]) for hidden in hiddens],
            heads,
            targets.ids.flatten(1),
            scale[:, None] * weights,
            valid,
            chunk_size=self.config.chunk_size,
            distillation=self.config.distillation,
        )
        # A draft of horizons 2..k is accepted whole while each agrees (a masked target neither helps nor breaks it);
        # horizon 1 always agrees with itself.
        whole = torch.cumprod((walk.agree | ~valid).to(torch.uint8), dim=0).bool() & valid
        return ObjectiveOutput(
            loss=walk.loss,
            loss_sums=(weights * walk.nll).sum(dim=1),
            weight_sums=weights.sum(dim=1),
            counts=valid.sum(dim=1),
            correct=walk.correct.sum(dim=1),
            agree=walk.agree.sum(dim=1),
            accepted=whole.sum(dim=1),
        )
