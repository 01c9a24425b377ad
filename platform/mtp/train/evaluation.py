"""Loss per horizon, perplexity and agreement on held-out rows, computed by all ranks together.

The rows are read once, in file order, and lie apart from the training stream, so that evaluating moves neither its
order nor any generator. Knows the loss module and its sums; knows nothing of when it is called.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mtp.data import read_rows
from mtp.objective import MTPObjective, horizon_metrics
from mtp.train.collective import summed
from mtp.train.engine import Engine


class Evaluator:
    """This rank's share of the held-out rows."""

    def __init__(
        self,
        path: str,
        rows: int,
        engine: Engine,
        objective: MTPObjective,
        device: torch.device,
        rank: int,
        rows_per_forward: int,
    ) -> None:
        tokens, document = read_rows(path, limit=rows)
        self._batches = _equal_share(tokens, document, rank, engine.world, rows_per_forward)
        self._engine = engine
        # Importance weights and schedules belong to training: an evaluation weighs every token and horizon alike.
        self._objective = MTPObjective(objective.config, objective.n_future)
        self._device = device

    def run(self) -> dict[str, float]:
        """{eval/ppl, eval/loss_h1.., eval/top1_h1.., eval/agreement_h2..} of all rows; equal on every rank."""
        n = self._objective.n_future
        sums = torch.zeros(6, n, dtype=torch.float64, device=self._device)
        ones = torch.ones(n, device=self._device)
        module = self._engine.module
        module.eval()
        try:
            with torch.no_grad():
                for tokens, document in self._device_batches():
                    targets = self._objective.targets(tokens, document)
                    _, of_batch = module(tokens, document, targets.ids, targets.weights, ones, ones, 0.0)
                    sums += of_batch
        finally:
            module.train()
        metrics = horizon_metrics(summed(sums).cpu())
        return {"eval/ppl": math.exp(min(metrics["loss_h1"], 700.0))} | {
            f"eval/{name}": value for name, value in metrics.items()
        }

    def _device_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for tokens, document in self._batches:
            yield tokens.to(self._device), document.to(self._device)


def _equal_share(
    tokens: Tensor, document: Tensor, rank: int, world: int, rows_per_forward: int
) -> list[tuple[Tensor, Tensor]]:
    """This rank's rows in forwards; every rank gets as many forwards of as many rows, since ZeRO 3 gathers in step.

    Rows are filled up with padding, which counts for nothing.
    """
    missing = -len(tokens) % (world * rows_per_forward)
    tokens = torch.cat([tokens, tokens.new_zeros(missing, tokens.shape[1])])
    document = torch.cat([document, document.new_full((missing, document.shape[1]), -1)])
    mine = slice(rank * len(tokens) // world, (rank + 1) * len(tokens) // world)
    return list(zip(tokens[mine].split(rows_per_forward), document[mine].split(rows_per_forward), strict=True))
