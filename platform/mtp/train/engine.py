"""DeepSpeed, behind one door: the only module that imports it.

Knows how to put a module under ZeRO 0-3, with offload and expert parallelism, and to run one optimizer step of several
micro-batches. Its state, taken apart into whole, named tensors, lies in mtp.train.partitions. Knows nothing of
language models, losses, data or checkpoint files.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtp.config import TrainConfig
from mtp.train.expert_parallel import autoep_settings
from mtp.train.parameters import parameter_groups
from mtp.train.partitions import Partitions


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
        import deepspeed.moe.utils
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
        self.backend = backend
        self.world = dist.get_world_size()
        if self.world == 1:
            # DeepSpeed would clone the group. A gloo group's thread wakes a hundred times a second, and what it
            # interrupts makes the step's threads wait. Two workers are faster with the clone (docs/benchmarks.md).
            deepspeed.utils.groups._WORLD_GROUP = dist.group.WORLD
        self.zero_stage = config.stage_used(self.world)
        self._clip = config.optimizer.grad_clip
        self._accumulation = accumulation
        self._module = module
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=self._optimizer(config, deepspeed),
            model_parameters=(parameter for parameter in module.parameters() if parameter.requires_grad),
            config=self._settings(config),
            dist_init_required=False,
        )
        if self.world == 1 and self.zero_stage == 0:
            self._engine.enable_backward_allreduce = False  # it would copy all gradients for nobody
        self._trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self._expert_group = _expert_group(self.module)
        self.state = Partitions(self._engine, self.zero_stage, deepspeed)
        self.state.reset_optimizer(0)

    def _optimizer(self, config: TrainConfig, deepspeed: Any) -> Callable[[Any], torch.optim.Optimizer]:
        """Makes AdamW when the module's parameters are final: expert parallelism replaces some of them."""

        def make(_: Any) -> torch.optim.Optimizer:
            groups = parameter_groups(self._module, config.optimizer.weight_decay)
            if config.expert_parallel > 1:
                split = deepspeed.moe.utils.split_params_into_different_moe_groups_for_optimizer
                named = [{**group, "name": f"dense-{number}"} for number, group in enumerate(groups)]
                groups = [group for group in split(named) if group["params"]]
            optimizer = config.optimizer
            return torch.optim.AdamW(groups, lr=optimizer.lr, betas=optimizer.betas, eps=optimizer.eps, fused=True)

        return make

    def _settings(self, config: TrainConfig) -> dict[str, Any]:
        """DeepSpeed's configuration; sizes that it wants twice are derived here."""
        return {
            "train_micro_batch_size_per_gpu": config.rows_per_forward(self.world),
            "gradient_accumulation_steps": self._accumulation,
            "gradient_clipping": config.optimizer.grad_clip if self.zero_stage else 0.0,
            "zero_optimization": {
                "stage": self.zero_stage,
                "overlap_comm": False,
                "offload_optimizer": {"device": config.offload.optimizer},
                "offload_param": {"device": config.offload.parameters},
            },
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "expert_parallel": autoep_settings(config.expert_parallel),
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
        trained = [parameter for parameter in self._trained if parameter.grad is not None]
        norm = self._norm(trained)
        finite = bool(torch.isfinite(norm))
        nn.utils.clip_grads_with_norm_(trained, self._clip, norm)
        if not finite:
            for parameter in trained:
                parameter.grad = None
        self._engine.step()
        return StepOutcome(float(norm), finite)

    def _norm(self, trained: list[nn.Parameter]) -> Tensor:
        """2-norm of the whole gradient, of which each rank has only its own experts' part."""
        norm = nn.utils.get_total_norm(_gradients(trained, of_experts=False))
        if self._expert_group is None:
            return norm
        mine = nn.utils.get_total_norm(_gradients(trained, of_experts=True)) ** 2
        dist.all_reduce(mine, group=self._expert_group)
        return (norm**2 + mine).sqrt()


def _gradients(trained: list[nn.Parameter], of_experts: bool) -> list[Tensor]:
    """Of the parameters that AutoEP marks as holding this rank's own experts, or of the others."""
    return [
        parameter.grad
        for parameter in trained
        if parameter.grad is not None and getattr(parameter, "allreduce", True) != of_experts
    ]


def _expert_group(module: nn.Module) -> Any:
    """The ranks that share one set of experts; None without expert parallelism."""
    groups = [layer.ep_group for layer in module.modules() if getattr(layer, "_is_autoep_layer", False)]
    return groups[0] if groups else None
