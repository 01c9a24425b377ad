"""Load balance of the experts across ranks: counts of the global batch in, new correction biases out.

b += gamma * sign(mean(load) - load) after each optimizer step (DeepSeek-V3 report, section 2.1.2). Knows the MoE
layers' counters, the model's own or those of mtp.train.expert_parallel; knows nothing of how experts are chosen.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp.model import load_violation
from mtp.model.moe import MoE
from mtp.train.expert_parallel import ParallelExperts, parallel_layers
from mtp.train.loss_module import LossModule


class ExpertBalance:
    """The MoE layers of a model, whose counters it reads and resets.

    Made before the engine, for the engine may cast the biases and replace the layers; `engine_made` finds them again.
    """

    def __init__(self, module: LossModule, speed: float) -> None:
        self._module = module
        self._layers: Sequence[MoE | ParallelExperts] = module.model.expert_layers()
        self._speed = speed
        self.frozen = False
        """Set while trial steps run, which must leave no trace."""
        self._exact = [layer.bias.clone() for layer in self._layers]

    def engine_made(self) -> None:
        """Take the layers that the engine put in, and give the biases back the fp32 that casting to bf16 took."""
        replaced = parallel_layers(self._module)
        if replaced:
            self._layers = replaced
            self._record_balance(replaced)
        for layer, exact in zip(self._layers, self._exact, strict=True):
            layer.bias.data = exact.to(layer.bias.device)
        self._exact = []

    def _record_balance(self, layers: list[ParallelExperts]) -> None:
        if not self._module.objective.config.balance_alpha:
            return
        for layer in layers:
            layer.record_balance = True
        self._module.balance_loss = lambda: torch.stack([_balance(layer) for layer in layers]).sum()

    def biases(self) -> list[Tensor]:
        """The correction bias (E,) of each layer."""
        return [layer.bias for layer in self._layers]

    def counts(self) -> Tensor:
        """Tokens of this rank per expert since the last reset, all layers in a row, float64; resets the counters."""
        if not self._layers:
            return torch.zeros(0, dtype=torch.float64)
        counts = torch.cat([layer.tokens_per_expert for layer in self._layers]).double()
        for layer in self._layers:
            layer.reset_counts()
        return counts

    def update(self, counts: Tensor) -> None:
        """Move the biases by the global batch's counts (as `counts` lays them out, summed over ranks)."""
        if self.frozen:
            return
        for layer, load in zip(self._layers, self._by_layer(counts), strict=True):
            layer.update_expert_bias(load, self._speed)

    def worst_violation(self, counts: Tensor) -> float:
        """The largest max(load) / mean(load) - 1 of any layer; 0 without experts."""
        return max((load_violation(load) for load in self._by_layer(counts)), default=0.0)

    def _by_layer(self, counts: Tensor) -> list[Tensor]:
        return list(counts.split([len(layer.tokens_per_expert) for layer in self._layers])) if self._layers else []


def _balance(layer: ParallelExperts) -> Tensor:
    assert layer.balance_loss is not None  # every layer routes in every training forward
    return layer.balance_loss
