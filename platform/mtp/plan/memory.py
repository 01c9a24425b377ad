"""Bytes on one accelerator, by part, for each ZeRO stage, as DeepSpeed lays them out.

P parameters, N accelerators, w bytes of a weight, B the reduction bucket (at most P elements), in bytes:

    stage       0      1        2                       3
    weights     wP     wP       wP                      wP/N, and up to 1e9 parameters gathered
    gradients   4P     wP       wP/N                    4P/N
    optimizer   8P     12P/N    12P/N                   12P/N    Adam's two moments; under ZeRO an fp32 master too
    buffers     wB*    wB       max(2wB - wP/N, wB)     wB, and 5e7 weights on their way to be gathered

* none where N = 1, which exchanges nothing. Gradients of stages 0 to 2 are let go after each step, so that activations
and gradients take turns; stage 3 keeps its gradients and its bucket. Routed experts under expert parallelism: P/EP on a
rank, split over N/EP ranks. Offloaded parts count as 0 here. A slow test holds these lines to real processes. Knows
sizes; knows nothing of time.
"""

from dataclasses import dataclass, fields

from mtp.config import Config
from mtp.model import MTPModel
from mtp.model.accounting import ParameterCounts
from mtp.plan.accelerators import Accelerator
from mtp.plan.activations import saved_elements

BUCKET = 500_000_000
"""Elements of DeepSpeed's reduction bucket (reduce_bucket_size)."""
PREFETCH = 50_000_000
"""Elements that ZeRO 3 gathers ahead (stage3_prefetch_bucket_size)."""
LIVE = 1_000_000_000
"""Parameters that ZeRO 3 keeps gathered at most (stage3_max_live_parameters)."""
WIDTHS = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Memory:
    """Bytes on one accelerator."""

    weights: float
    modules: float
    """Weights of the prediction modules, which `weights` does not count again."""
    gathered: float
    gradients: float
    optimizer: float
    buffers: float
    """Reduction buckets and flattened gradients."""
    activations: float
    module_activations: float
    logits: float
    """A chunk of logits (two with distillation), and the loss' gradients of hidden states and heads."""
    gradients_stay: bool
    """Gradients and buffers are there in the forward too."""
    carried: float
    """Gradients of earlier micro-batches that are there in the forward."""

    def parts(self) -> dict[str, float]:
        """Every part by name."""
        return {part.name: float(getattr(self, part.name)) for part in fields(self) if part.type is not bool}

    @property
    def states(self) -> float:
        """Weights, gradients and optimizer: what lasts from step to step."""
        return self.weights + self.modules + self.gradients + self.optimizer

    @property
    def peak(self) -> float:
        """The most at any moment of a step."""
        lasting = self.weights + self.modules + self.optimizer + self.gathered
        forward = self.activations + self.module_activations + self.logits
        exchange = self.gradients + self.buffers
        if self.gradients_stay:
            return lasting + forward + exchange
        return lasting + max(forward + self.carried, exchange)


def memory(
    config: Config, model: MTPModel, counts: ParameterCounts, gpus: int, stage: int, device: Accelerator
) -> Memory:
    """Bytes on each of `gpus` accelerators at ZeRO `stage`."""
    train = config.train
    width = WIDTHS[train.dtype]
    experts = counts.routed_experts if train.expert_parallel > 1 else 0
    dense = counts.total - experts
    held = dense + experts / train.expert_parallel
    split = dense / gpus + experts / gpus  # experts: 1/EP of them over N/EP ranks
    share = counts.modules / counts.total
    # A GPU's bucket is allocated whole; the pages of a CPU's that are never touched cost nothing.
    bucket = width * (BUCKET if device.fused_attention and stage > 1 else min(BUCKET, held))
    weights = width * (split if stage == 3 else held)
    gathered = width * min(held, LIVE) if stage == 3 else 0.0
    gradients = {0: 4 * held, 1: width * held, 2: width * split, 3: 4 * split}[stage]
    optimizer = 8 * held if stage == 0 else 12 * split
    buffers = {
        0: bucket if gpus > 1 else 0.0,
        1: bucket,
        2: max(2 * bucket - width * split, bucket),
        3: bucket + width * min(PREFETCH, held),
    }[stage]
    if train.offload.optimizer == "cpu" and stage:
        optimizer = 0.0
    if train.offload.parameters == "cpu" and stage == 3:
        weights = 0.0
    saved = saved_elements(model, config.data.seq_len, device, train.activation_checkpointing)
    tokens = rows_per_forward(config, gpus) * config.data.seq_len
    return Memory(
        weights=weights * (1 - share),
        modules=weights * share,
        gathered=gathered,
        gradients=gradients,
        optimizer=optimizer,
        buffers=buffers,
        activations=width * tokens * (saved.backbone + saved.largest_layer),
        module_activations=width * tokens * saved.modules,
        logits=_loss(config, model, tokens, width),
        gradients_stay=stage == 3,
        carried=gradients if config.train.batch_size > gpus * rows_per_forward(config, gpus) else 0.0,
    )


def rows_per_forward(config: Config, gpus: int) -> float:
    """Rows in one forward of one accelerator."""
    return float(config.train.micro_batch_size or max(config.train.batch_size / gpus, 1))


def _loss(config: Config, model: MTPModel, tokens: float, width: int) -> float:
    vocabulary, d = config.model.vocab_size, config.model.hidden_size
    heads = len({id(head) for head in model.heads()})
    held = 2 if config.objective.distillation else 1
    chunk = held * 4 * min(config.objective.chunk_size, tokens) * vocabulary
    return chunk + config.model.n_future * tokens * d * width + 4 * heads * vocabulary * d
