"""What DeepSpeed does not do is refused here, before anything starts, with the reason and what to use instead.

Knows the configuration and what was seen of DeepSpeed 0.19; knows nothing of clusters, data or engines.
"""

from importlib.util import find_spec

from mtp.config import Config, ModelConfig, TrainConfig
from mtp.errors import UsageError


def check_sharding(config: Config) -> None:
    """See that precision, offload and expert parallelism go with the ZeRO stage, the model and the workers.

    Raises:
        UsageError: they do not.
    """
    _check_precision(config.train)
    _check_offload(config.train)
    if config.train.expert_parallel > 1:
        _check_experts(config.model, config.train)


def _check_precision(train: TrainConfig) -> None:
    if train.dtype == "bfloat16" and train.zero_stage == 0:
        raise UsageError(
            "train.dtype bfloat16 with train.zero_stage 0 keeps no fp32 master weights in DeepSpeed; use zero_stage 1"
        )


def _check_offload(train: TrainConfig) -> None:
    offload, stage = train.offload, train.zero_stage
    if offload.optimizer == "cpu" and stage == 0:
        raise UsageError(
            "train.offload.optimizer cpu with train.zero_stage 0: DeepSpeed offloads only an optimizer that ZeRO "
            "shards, and would keep this one on the device; use zero_stage 1"
        )
    if offload.parameters == "cpu" and stage != 3:
        raise UsageError(
            f"train.offload.parameters cpu with train.zero_stage {stage}: only ZeRO 3 takes weights apart, and so can "
            f"keep them elsewhere; use zero_stage 3"
        )


def _check_experts(model: ModelConfig, train: TrainConfig) -> None:
    size = train.expert_parallel
    if not model.n_routed_experts:
        raise UsageError(
            f"train.expert_parallel is {size}, but the model has no routed experts (model.n_routed_experts is 0); "
            f"set train.expert_parallel=1"
        )
    if model.n_routed_experts % size:
        raise UsageError(
            f"model.n_routed_experts ({model.n_routed_experts}) does not divide by train.expert_parallel ({size}), so "
            f"the workers cannot hold equal parts; choose a divisor of {model.n_routed_experts}"
        )
    if model.n_routed_experts < 2 * model.n_group:
        raise UsageError(
            f"train.expert_parallel is {size}, but groups of one expert (model.n_group {model.n_group}) are beyond "
            f"DeepSpeed AutoEP's router; lower model.n_group, or set train.expert_parallel=1"
        )
    uneven = [n for n in range(train.min_workers, train.max_workers + 1) if n % size]
    if uneven:
        raise UsageError(
            f"train.num_workers ({uneven[0]}) does not divide by train.expert_parallel ({size}), so some set of "
            f"experts would be incomplete; choose a multiple of {size} workers, or set train.expert_parallel=1"
        )
    if find_spec("transformers") is None:
        raise UsageError(
            "train.expert_parallel needs the package transformers (DeepSpeed AutoEP asks for its version); install "
            "transformers>=5, or set train.expert_parallel=1"
        )
