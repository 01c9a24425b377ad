"""One optimizer step on one global batch, of which this rank holds a slice.

The loss does not depend on how the batch was cut: its denominators are summed over all ranks and micro-batches before
the first forward. Knows the engine, the loss and the experts; knows nothing of data streams, schedules or logs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp.objective import MTPObjective
from mtp.train.collective import summed
from mtp.train.engine import Engine
from mtp.train.experts import ExpertBalance


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward, with their targets."""

    tokens: Tensor
    document: Tensor
    ids: Tensor
    weights: Tensor


@dataclass(frozen=True)
class StepResult:
    """What one step did to the global batch; equal on every rank."""

    loss: float
    """sum_k lambda_k L_k."""
    sums: Tensor
    """(6, n) float64, rows as `mtp.objective.SUMS`."""
    tokens: int
    """Positions that hold a token."""
    grad_norm: float
    applied: bool
    """False: the loss or a gradient was not finite, and no weight moved."""
    violation: float
    """Worst expert load violation."""


class StepRunner:
    """Runs steps; owns nothing but references."""

    def __init__(
        self,
        engine: Engine,
        objective: MTPObjective,
        experts: ExpertBalance,
        device: torch.device,
        rows_per_forward: int,
    ) -> None:
        self._engine = engine
        self._objective = objective
        self._experts = experts
        self._device = device
        self._rows = rows_per_forward

    def run(self, tokens: Tensor, document: Tensor, lambdas: list[float], lr: float) -> StepResult:
        """Forward, backward and update.

        Args:
            tokens: (b, T) int64, this rank's rows of the global batch.
            document: (b, T) int.
            lambdas: n weights of the horizons.
            lr: learning rate of this step.
        """
        sums, tokens_seen, loss = self._gradients(tokens, document, lambdas)
        counts = self._experts.counts().to(self._device)
        summed(flat := torch.cat([sums.flatten(), tokens_seen, loss, counts]))
        sums = flat[: sums.numel()].view_as(sums)
        counts = flat[sums.numel() + 2 :].cpu()
        outcome = self._engine.step(lr)
        if outcome.applied:
            self._experts.update(counts)
        return StepResult(
            loss=float(flat[sums.numel() + 1]),
            sums=sums.cpu(),
            tokens=int(flat[sums.numel()]),
            grad_norm=outcome.grad_norm,
            applied=outcome.applied,
            violation=self._experts.worst_violation(counts),
        )

    def _gradients(self, tokens: Tensor, document: Tensor, lambdas: list[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Add up the gradient of every micro-batch; this rank's sums, token count and loss, float64."""
        targets = self._objective.targets(tokens, document)
        denominators = summed(self._objective.denominators(targets).to(self._device))
        weights = torch.tensor(lambdas, dtype=torch.float32, device=self._device)
        share = self._rows / (len(tokens) * self._engine.world)
        sums = torch.zeros(6, len(lambdas), dtype=torch.float64, device=self._device)
        total = torch.zeros(1, dtype=torch.float64, device=self._device)
        for micro in self._micro_batches(tokens, document, targets.ids, targets.weights):
            loss, of_micro = self._engine.forward(
                micro.tokens, micro.document, micro.ids, micro.weights, weights, denominators, share
            )
            self._engine.backward(loss)
            sums += of_micro.detach()
            total += loss.detach()
        return sums, (document >= 0).sum().double().view(1).to(self._device), total

    def _micro_batches(self, tokens: Tensor, document: Tensor, ids: Tensor, weights: Tensor) -> Iterator[MicroBatch]:
        for start in range(0, len(tokens), self._rows):
            rows = slice(start, start + self._rows)
            yield MicroBatch(tokens[rows], document[rows], ids[:, rows], weights[:, rows])
