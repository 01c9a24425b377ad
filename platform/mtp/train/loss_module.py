"""Model and objective as one module, so that the sharding engine sees a forward from tokens to the loss.

ZeRO 3 gathers a parameter when the module that uses it runs; the output heads are used by the loss, so the loss has
to lie inside. Knows nothing of ranks.
"""

import torch
from torch import Tensor, nn

from mtp.model import MTPModel
from mtp.objective import MTPObjective, Targets


class LossModule(nn.Module):
    """tokens -> (this micro-batch's share of the global loss, sums of its metrics)."""

    def __init__(self, model: MTPModel, objective: MTPObjective, *, document_mask: bool = True) -> None:
        super().__init__()
        self.document_mask = document_mask
        self.model = model
        self.objective = objective
        self.config = model.config
        """Where DeepSpeed's AutoEP reads how tokens are routed."""
        self.balance_loss = model.balance_loss
        """Sum over MoE layers of the last training forward's balance loss."""
        if objective.config.balance_alpha:
            model.record_balance()
        if objective.config.detach_backbone:
            freeze_backbone(model)

    def forward(
        self,
        tokens: Tensor,
        document: Tensor,
        ids: Tensor,
        weights: Tensor,
        lambdas: Tensor,
        denominators: Tensor,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """One micro-batch.

        Args:
            tokens: (B, T) int64.
            document: (B, T) int, -1 is padding.
            ids: (n, B, T) int64 targets.
            weights: (n, B, T) float32 weights of the targets.
            lambdas: (n,) weights of the horizons.
            denominators: (n,) of the global batch.
            share: rows here / rows of the global batch, for the balance loss, which is a mean over rows.

        Returns:
            scalar loss with gradient; sums (6, n) float64 as in `mtp.objective.SUMS`.
        """
        config = self.objective.config
        targets = Targets(ids, weights, (document >= 0).sum(dtype=torch.float32))
        seen = document if self.document_mask else None
        hiddens = self.model(tokens, seen, detach_backbone=config.detach_backbone)
        heads = self.model.heads(detach_backbone=config.detach_backbone)
        output = self.objective(hiddens, heads, targets, lambdas, denominators)
        loss = output.loss
        if config.balance_alpha and self.training:
            loss = loss + config.balance_alpha * share * self.balance_loss()
        return loss, output.sums()


def freeze_backbone(model: MTPModel) -> None:
    """Leave only the prediction modules to train, so that no optimizer decays what gets no gradient.

    With tied embeddings the head freezes too, being the same tensor.
    """
    for part in (model.model, model.lm_head):
        for parameter in part.parameters():
            parameter.requires_grad_(False)
