"""DeepSeekMoE layer: routed experts chosen by the gate, plus shared experts that every token passes.

Keeps two things for the trainer: how many tokens each expert got in training forwards since the last reset, and, when
asked, the sequence-wise balance loss of the last forward. How they are used (across ranks, in the loss) is not known
here.
"""

import torch
from torch import Tensor, nn

from mtp.config import ModelConfig
from mtp.model.experts import Experts
from mtp.model.gate import Gate, sequence_balance, updated_bias
from mtp.model.mlp import SwiGLU


class MoE(nn.Module):
    """sum_k w_k Expert_k(x) + Shared(x)."""

    tokens_per_expert: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Gate(config)
        self.experts = Experts(config)
        self.shared_experts: SwiGLU | None = None
        if config.n_shared_experts:
            width = config.moe_intermediate_size * config.n_shared_experts
            self.shared_experts = SwiGLU(config.hidden_size, width)
        self.record_balance = False
        self.recomputing = False
        """Set while activation checkpointing runs a forward again, whose tokens were counted before."""
        self.balance_loss: Tensor | None = None
        counts = torch.zeros(config.n_routed_experts, dtype=torch.int64)
        self.register_buffer("tokens_per_expert", counts, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, d) -> (B, T, d)."""
        flat = x.flatten(0, -2)
        chosen, weights, scores = self.gate(flat)
        counts = torch.bincount(chosen.flatten(), minlength=self.gate.experts)
        if self.training and torch.is_grad_enabled():
            self._record(scores, chosen, counts, x.shape[:2])
        out = self.experts(flat, chosen, weights, counts).view_as(x)
        return out if self.shared_experts is None else out + self.shared_experts(x)

    @property
    def bias(self) -> Tensor:
        """The gate's correction bias (E,)."""
        return self.gate.e_score_correction_bias

    def reset_counts(self) -> None:
        """Forget the counts; call after each optimizer step."""
        self.tokens_per_expert.zero_()

    @torch.no_grad()
    def update_expert_bias(self, counts: Tensor, speed: float) -> None:
        """b += gamma * sign(mean(load) - load) with the counts (E,) of the global batch."""
        self.bias.copy_(updated_bias(self.bias, counts.to(self.bias.device), speed))

    def _record(self, scores: Tensor, chosen: Tensor, counts: Tensor, rows: torch.Size) -> None:
        if not self.recomputing:
            self.tokens_per_expert += counts
        if self.record_balance:
            self.balance_loss = sequence_balance(scores.unflatten(0, rows), chosen.unflatten(0, rows))
