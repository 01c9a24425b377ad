"""Memory, communication, step time, tokens a day and cost for each ZeRO stage: what `mtp plan` prints.

    step = compute + communication + optimizer        nothing overlaps, as the engine is configured
    compute = FLOPs of the tokens (x 4/3 when activations are computed again) / (peak x efficiency)

Efficiency is the one figure that no formula gives: the share of the peak that a step's arithmetic reaches.
"""

from pydantic import BaseModel

from mtp.config import Config
from mtp.errors import UsageError
from mtp.model.accounting import flops_per_token, model_on_meta, parameter_counts
from mtp.model.moe import MoE
from mtp.plan.accelerators import Accelerator
from mtp.plan.communication import communication
from mtp.plan.memory import memory, rows_per_forward

EFFICIENCY = 0.4
DAY, HOUR = 86_400, 3_600
USABLE = 0.92
"""Share of an accelerator's memory that a process gets to use; the rest is context, libraries and fragments."""


class StagePlan(BaseModel):
    """One ZeRO stage."""

    zero_stage: int
    memory: dict[str, float]
    """Bytes on one accelerator by part; `peak` is the most at any moment."""
    fits: bool
    communication: dict[str, float]
    """Bytes that one accelerator sends in a step."""
    compute_s: float
    communication_s: float
    optimizer_s: float
    step_s: float
    tokens_per_day: float
    gpu_hours: float
    """For all steps of the configuration; of as many tokens as `Plan.tokens`."""
    cost: float | None
    """In the price's currency."""


class Plan(BaseModel):
    """A training on so many accelerators of one kind."""

    gpu: str
    gpus: int
    parameters: int
    active_parameters: int
    module_parameters: int
    flops_per_token: float
    tokens_per_step: int
    tokens: int | None
    """Of the whole training; None where it is given in minutes."""
    efficiency: float
    stages: list[StagePlan]


def make_plan(
    config: Config, gpus: int, device: Accelerator, *, efficiency: float = EFFICIENCY, price: float | None = None
) -> Plan:
    """Plan `config` on `gpus` accelerators (they replace train.num_workers); `price` is for one of them an hour.

    Raises:
        UsageError: the batch has fewer rows than there are accelerators, or experts do not divide over them.
    """
    train = config.train
    if train.batch_size < gpus:
        raise UsageError(f"train.batch_size {train.batch_size} gives {gpus} GPUs less than a row each; raise it")
    if gpus % train.expert_parallel or (train.expert_parallel > 1 and not config.model.n_routed_experts):
        raise UsageError(
            f"train.expert_parallel {train.expert_parallel} does not divide {gpus} GPUs, or there are no experts"
        )
    counts = parameter_counts(config.model)
    tokens = train.batch_size * config.data.seq_len
    return Plan(
        gpu=device.name,
        gpus=gpus,
        parameters=counts.total,
        active_parameters=counts.main_active + counts.modules_active,
        module_parameters=counts.modules,
        flops_per_token=flops_per_token(config.model, config.data.seq_len),
        tokens_per_step=tokens,
        tokens=tokens * train.steps if train.steps else None,
        efficiency=efficiency,
        stages=[_stage(config, gpus, device, stage, efficiency, price) for stage in (0, 1, 2, 3)],
    )


def _stage(
    config: Config, gpus: int, device: Accelerator, stage: int, efficiency: float, price: float | None
) -> StagePlan:
    train, model = config.train, model_on_meta(config.model)
    counts = parameter_counts(config.model)
    run = train.model_copy(update={"zero_stage": stage}).stage_used(gpus)
    needs = memory(config, model, counts, gpus, run, device)
    tokens = train.batch_size * config.data.seq_len
    accumulation = max(train.batch_size / gpus / rows_per_forward(config, gpus), 1.0)
    moe_layers = sum(isinstance(module, MoE) for module in model.modules())
    sent = communication(config, counts, moe_layers, gpus, run, accumulation, tokens / gpus)
    flops = flops_per_token(config.model, config.data.seq_len) * (4 / 3 if train.activation_checkpointing else 1)
    compute = flops * tokens / gpus / (device.flops[train.dtype] * efficiency)
    link = device.inside_node if gpus <= device.per_node else device.between_nodes
    optimizer = (needs.gradients + 2 * needs.optimizer) / device.bandwidth  # Adam reads gradients, rewrites its states
    step = compute + sent.total / link + optimizer
    hours = step * gpus / HOUR * train.steps if train.steps else 0.0
    return StagePlan(
        zero_stage=stage,
        memory={**needs.parts(), "states": needs.states, "peak": needs.peak},
        fits=needs.peak <= USABLE * device.memory,
        communication={**vars(sent), "total": sent.total},
        compute_s=compute,
        communication_s=sent.total / link,
        optimizer_s=optimizer,
        step_s=step,
        tokens_per_day=tokens / step * DAY,
        gpu_hours=hours,
        cost=hours * price if price is not None else None,
    )
