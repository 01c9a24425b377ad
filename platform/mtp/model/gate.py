"""DeepSeek-V3's router (report, section 2.1.2): sigmoid scores, group-limited top-k, and a bias that balances load.

The bias b only chooses: experts are selected on s + b, and weighted by the unbiased s. It is not learned by gradient;
after each optimizer step the trainer calls `updated_bias` with the counts of the global batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtp.config import ModelConfig


class Gate(nn.Module):
    """Scores in fp32, whatever the model's dtype."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts = config.n_routed_experts
        self.top_k = config.num_experts_per_tok
        self.groups, self.top_groups = config.n_group, config.topk_group
        self.normalise = config.norm_topk_prob
        self.scale = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(self.experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(self.experts, dtype=torch.float32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route N tokens.

        Args:
            x: (N, d).

        Returns:
            experts (N, k) int64; their weights (N, k) fp32; all scores s (N, E) fp32.
        """
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        chosen = self._choose(scores.detach() + self.e_score_correction_bias)
        weights = scores.gather(1, chosen)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * self.scale, scores

    def _choose(self, biased: Tensor) -> Tensor:
        """The top k of s + b (N, E) among the experts of the best groups (group score: sum of its top 2)."""
        if self.groups > 1:
            grouped = biased.unflatten(1, (self.groups, -1))
            group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
            best = group_scores.topk(self.top_groups, dim=-1, sorted=False).indices
            closed = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, best, False)
            biased = grouped.masked_fill(closed.unsqueeze(-1), float("-inf")).flatten(1)
        return biased.topk(self.top_k, dim=-1, sorted=False).indices


def updated_bias(bias: Tensor, counts: Tensor, speed: float) -> Tensor:
    """b + gamma * sign(mean(load) - load): overloaded experts become less likely, underloaded ones more.

    Args:
        bias: (E,) fp32.
        counts: (E,) tokens that each expert got in the global batch.
        speed: gamma.
    """
    load = counts.to(torch.float32)
    return bias + speed * torch.sign(load.mean() - load)


def load_violation(counts: Tensor) -> float:
    """MaxVio = max(load) / mean(load) - 1 (0 is perfect balance; 0 too when nothing was routed)."""
    load = counts.to(torch.float64)
    mean = load.mean()
    return float(load.max() / mean - 1) if mean > 0 else 0.0


def sequence_balance(scores: Tensor, chosen: Tensor) -> Tensor:
    """DeepSeek-V3's sequence-wise balance loss without its factor alpha (eq. 17-20), averaged over the rows.

    sum_i f_i P_i, with f_i = E / (k T) * tokens of the row that chose i, and P_i = the row's mean of s_i / sum_j s_j.
    Perfect balance gives 1.

    Args:
        scores: (B, T, E) unbiased sigmoid scores, with gradient.
        chosen: (B, T, k) int64.

    Returns:
        scalar.
    """
    batch, length, experts = scores.shape
    picks = chosen.flatten(1)
    counts = torch.zeros(batch, experts, device=scores.device).scatter_add_(
        1, picks, torch.ones_like(picks, dtype=torch.float32)
    )
    frequency = counts * (experts / (chosen.shape[-1] * length))
    share = (scores / scores.sum(-1, keepdim=True)).mean(1)
    return (frequency * share).sum(-1).mean()
