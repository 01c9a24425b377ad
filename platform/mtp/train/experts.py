"""Load balance of the experts across ranks: counts of the global batch in, new correction biases out.

b += gamma * sign(mean(load) - load) after each optimizer step (DeepSeek-V3 report, section 2.1.2). Knows the MoE
layers' counters; knows nothing of how experts are chosen or sharded.
"""

import torch
from torch import Tensor

from mtp.model import MTPModel, load_violation


class ExpertBalance:
    """The MoE layers of a model, whose counters it reads and resets."""

    def __init__(self, model: MTPModel, speed: float) -> None:
        self._layers = model.expert_layers()
        self._speed = speed
        self.frozen = False
        """Set while trial steps run, which must leave no trace."""
        self._exact = [layer.gate.e_score_correction_bias.clone() for layer in self._layers]

    def restore_precision(self) -> None:
        """Give the biases back the fp32 that casting the model to bf16 took; call when the engine is made."""
        for layer, exact in zip(self._layers, self._exact, strict=True):
            bias = layer.gate.e_score_correction_bias
            bias.data = exact.to(bias.device)
        self._exact = []

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
