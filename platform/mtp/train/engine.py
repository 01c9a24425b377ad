"""DeepSpeed, behind one door: the only module that imports it.

Knows how to put a module under ZeRO 0-3, to run one optimizer step of several micro-batches, and to take the training
state apart into whole, named tensors and put it together again under any stage and any number of workers. Knows
nothing of language models, losses, data or checkpoint files.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtp.config import TrainConfig
from mtp.train.parameters import parameter_groups

OPTIMIZER_STATES = ("exp_avg", "exp_avg_sq")
"""The per-parameter tensors of Adam, whole and of the parameter's shape."""


@dataclass(frozen=True)
class StepOutcome:
    """One optimizer step: the gradient's global 2-norm before clipping, and whether the weights moved."""

    grad_norm: float
    applied: bool


def load_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed quietly, for `device`, with no operator ever compiled."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="deepspeed.*")
    with _fast_import():
        import deepspeed
        import deepspeed.ops
        import deepspeed.runtime.zero.muon.muon_optimizer

    # The shared-memory collectives are for inference; compiling them would cost a minute in every worker.
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _fast_import() -> Iterator[None]:
    """Spare every worker eight seconds: DeepSpeed's autotuner imports mlflow, its Muon sets up torch.compile."""
    compiler, hidden = torch.compile, "mlflow" not in sys.modules
    torch.compile = lambda model=None, **_: model if model is not None else lambda function: function  # type: ignore
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler
        if hidden:
            del sys.modules["mlflow"]


class Engine:
    """A module under DeepSpeed, in a process group that torch.distributed already knows.

    Gradients are sums: `backward(loss)` on every rank and micro-batch adds up to the gradient of the sum of all the
    losses given, whatever the number of ranks and micro-batches.
    """

    def __init__(self, module: nn.Module, config: TrainConfig, device: torch.device, accumulation: int) -> None:
        deepspeed = load_deepspeed(device)
        backend = "gloo" if device.type == "cpu" else "nccl"
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        self.version: str = deepspeed.__version__
        self.zero_stage: int = config.zero_stage
        self.backend = backend
        self.world = dist.get_world_size()
        self._clip = config.optimizer.grad_clip
        self._accumulation = accumulation
        optimizer = torch.optim.AdamW(
            parameter_groups(module, config.optimizer.weight_decay),
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            fused=True,
        )
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=self._settings(config), dist_init_required=False
        )
        self._fragments = deepspeed.utils
        self._gather = deepspeed.zero.GatheredParameters
        self._weights = dict(self._engine.module.named_parameters())
        self._parameters = {name: weight for name, weight in self._weights.items() if weight.requires_grad}
        self.reset_optimizer(0)

    def _settings(self, config: TrainConfig) -> dict[str, Any]:
        """DeepSpeed's configuration; sizes that it wants twice are derived here."""
        return {
            "train_micro_batch_size_per_gpu": config.rows_per_forward,
            "gradient_accumulation_steps": self._accumulation,
            "gradient_clipping": config.optimizer.grad_clip if config.zero_stage else 0.0,
            "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": config.dtype == "bfloat16", "check_grad_overflow": True},
            "steps_per_print": None,
            "wall_clock_breakdown": False,
        }

    @property
    def module(self) -> nn.Module:
        """The module, callable for training and evaluation alike; DeepSpeed's hooks gather what it shards."""
        module: nn.Module = self._engine.module
        return module

    def forward(self, *inputs: Any) -> Any:
        """One micro-batch through the module in training mode."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient; the last of a step also reduces it over the ranks.

        DeepSpeed averages over the ranks; multiplying by their number makes the average a sum.
        """
        self._engine.backward(loss * self.world, scale_wrt_gas=False)
        boundary = self._engine.is_gradient_accumulation_boundary()
        if not boundary:
            self._engine.step()

    def step(self, lr: float) -> StepOutcome:
        """Clip and apply the gradients at learning rate `lr`; a non-finite gradient moves nothing on any rank."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if self.zero_stage == 0:
            return self._step_unsharded()
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        return StepOutcome(norm, bool(self._engine.was_step_applied()))

    def _step_unsharded(self) -> StepOutcome:
        """ZeRO 0 neither reports the norm nor skips a bad step; every rank holds the same whole gradient."""
        trained = [parameter for parameter in self._parameters.values() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(parameter.grad for parameter in trained)
        finite = bool(torch.isfinite(norm))
        nn.utils.clip_grads_with_norm_(trained, self._clip, norm)
        if not finite:
            for parameter in trained:
                parameter.grad = None
        self._engine.step()
        return StepOutcome(float(norm), finite)

    def weight_names(self) -> list[str]:
        """Names of all parameters, frozen ones too, in one order on all ranks."""
        return list(self._weights)

    def parameter_names(self) -> list[str]:
        """Names of the trained ones among them."""
        return list(self._parameters)

    def weight_sizes(self) -> dict[str, int]:
        """Elements of each whole parameter, by `weight_names`."""
        return {name: _whole_numel(parameter) for name, parameter in self._weights.items()}

    def whole_weight(self, name: str) -> Tensor:
        """The fp32 master of a parameter, gathered. Collective: all ranks ask for the same names in one order."""
        parameter = self._weights[name]
        if not parameter.requires_grad:
            return self._whole_frozen(parameter)
        if self.zero_stage == 0:
            return parameter.detach().float()
        whole: Tensor = self._fragments.safe_get_full_fp32_param(parameter)
        return whole.detach()

    def _whole_frozen(self, parameter: nn.Parameter) -> Tensor:
        """A weight that is not trained: it has no master, and only ZeRO 3 takes it apart."""
        if self.zero_stage != 3:
            return parameter.detach().float()
        with self._gather(parameter):
            return parameter.detach().float().clone()

    def whole_state(self, name: str, key: str) -> Tensor:
        """Adam's `key` (one of OPTIMIZER_STATES) of a parameter, gathered; collective as `whole_weight`."""
        parameter = self._parameters[name]
        if self.zero_stage == 0:
            state: Tensor = self._engine.optimizer.state[parameter][key]
            return state.detach()
        whole: Tensor = self._fragments.safe_get_full_optimizer_state(parameter, key)
        return whole.detach()

    def reset_optimizer(self, steps: int) -> None:
        """Adam's moments to zero, and its count of applied steps to `steps`.

        Made here rather than at Adam's first step, because ZeRO 1 and 2 link a parameter to its state only once.
        """
        optimizer = self._inner_optimizer()
        for flat in self._flat_parameters():
            optimizer.state[flat] = {
                "step": torch.tensor(float(steps), dtype=torch.float32, device=flat.device),
                **{key: torch.zeros_like(flat, memory_format=torch.preserve_format) for key in OPTIMIZER_STATES},
            }
        if self.zero_stage in (1, 2):
            sharded = self._engine.optimizer
            sharded._hp_optimizer_states_linked = False
            sharded._lazy_init_hp_params_optimizer_state()

    def restore(self, states: Mapping[str, Mapping[str, Tensor]], masters: Mapping[str, Tensor], steps: int) -> None:
        """Put whole tensors back: `states[key][name]` of Adam, and the fp32 `masters[name]`; `steps` were applied.

        The module must already hold the same weights when the engine is made (see mtp.train.state), since a
        master is only more precise than what the module computes with.
        """
        self.reset_optimizer(steps)
        for name, parameter in self._parameters.items():
            for key in OPTIMIZER_STATES:
                self._set_state(parameter, states[key][name], key)
            if self.zero_stage:
                self._set_master(parameter, masters[name])

    def _set_state(self, parameter: nn.Parameter, value: Tensor, key: str) -> None:
        if self.zero_stage == 0:
            self._engine.optimizer.state[parameter][key].copy_(value)
        elif self.zero_stage == 3:
            local = self._fragments.safe_get_local_optimizer_state(parameter, key)
            self._fragments.safe_set_local_optimizer_state(parameter, _slice_of(value, local.numel()), key)
        else:
            self._fragments.safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)

    def _set_master(self, parameter: nn.Parameter, value: Tensor) -> None:
        if self.zero_stage == 3:
            local = self._fragments.safe_get_local_fp32_param(parameter)
            self._fragments.safe_set_local_fp32_param(parameter, _slice_of(value, local.numel()))
        else:
            self._fragments.safe_set_full_fp32_param(parameter, value.to(parameter.device))

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        """The AdamW inside ZeRO's wrapper (stage 0 in fp32 has none)."""
        outer = self._engine.optimizer
        inner: torch.optim.Optimizer = outer.optimizer if self.zero_stage else outer
        return inner

    def _flat_parameters(self) -> Iterator[Tensor]:
        """What AdamW really updates: flat fp32 partitions under ZeRO, the parameters themselves without."""
        if self.zero_stage == 0:
            yield from self._parameters.values()
        elif self.zero_stage == 3:
            yield from self._engine.optimizer.fp32_partitioned_groups_flat
        else:
            yield from self._engine.optimizer.single_partition_of_fp32_groups


def _whole_numel(parameter: nn.Parameter) -> int:
    """Elements of the parameter before ZeRO 3 took it apart."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _slice_of(value: Tensor, length: int) -> Tensor:
    """This rank's part of `length` elements of a whole tensor, zero-padded at its end as ZeRO 3 pads."""
    flat = value.flatten()
    start = dist.get_rank() * length
    part = flat[start : start + length]
    return torch.nn.functional.pad(part, (0, length - part.numel()))
