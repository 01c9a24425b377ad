"""Bytes that one accelerator sends in an optimizer step.

A ring moves X (N-1)/N bytes for a reduce-scatter or an all-gather of X bytes, twice that for an all-reduce. With G the
gradients, W the weights, A micro-batches:

    stage 0   2 G            stage 1   A = 1: G + W, gradients reduced once a step
    stage 2   A G + W        stage 3   A (G + 2 W): weights gathered for the forward and again for the backward

Expert parallelism sends each token's d values to its k experts and back, in the forward and in the backward. Knows
bytes; knows nothing of links.
"""

from dataclasses import dataclass

from mtp.config import Config
from mtp.model.accounting import ParameterCounts
from mtp.plan.memory import LIVE, WIDTHS


@dataclass(frozen=True)
class Communication:
    """Bytes sent by one accelerator in a step."""

    gradients: float
    weights: float
    experts: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.gradients + self.weights + self.experts


def communication(
    config: Config, counts: ParameterCounts, moe_layers: int, gpus: int, stage: int, accumulation: float, tokens: float
) -> Communication:
    """Of one step in which each of `gpus` accelerators sees `tokens` tokens in `accumulation` micro-batches."""
    train = config.train
    width = WIDTHS[train.dtype]
    parallel = train.expert_parallel
    experts = counts.routed_experts if parallel > 1 else 0
    dense, mine = counts.total - experts, experts / parallel
    replicas = gpus // parallel if parallel > 1 else 1
    moved = width * (dense * _ring(gpus) + mine * _ring(replicas))
    gathers = 2 if counts.total > LIVE else 1  # smaller models stay gathered from forward to backward
    of_gradients = {0: 2 * moved, 1: moved, 2: accumulation * moved, 3: accumulation * moved}[stage]
    of_weights = {0: 0.0, 1: moved, 2: moved, 3: accumulation * gathers * moved}[stage]
    passes = 3 if train.activation_checkpointing else 2
    token_bytes = config.model.num_experts_per_tok * config.model.hidden_size * width
    of_experts = 2 * passes * tokens * moe_layers * token_bytes * _ring(parallel)
    return Communication(of_gradients, of_weights, of_experts)


def _ring(ranks: int) -> float:
    return (ranks - 1) / ranks
