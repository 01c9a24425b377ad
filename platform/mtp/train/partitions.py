"""Where DeepSpeed keeps the fp32 weights and Adam's moments of a module, taken whole and put back.

Each ZeRO stage cuts the tensors another way, and expert parallelism once more; here they have the names and shapes of
the model. Knows no steps, gradients or files; is handed DeepSpeed's accessors instead of importing them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtp.train.expert_parallel import model_name, whole_weights

OPTIMIZER_STATES = ("exp_avg", "exp_avg_sq")
"""The per-parameter tensors of Adam, whole and of the parameter's shape."""


class Partitions:
    """The state of one DeepSpeed engine. Its getters are collective: all ranks ask for the same names in one order."""

    def __init__(self, engine: Any, zero_stage: int, deepspeed: Any) -> None:
        self._engine = engine
        self._stage = zero_stage
        self._fragments = deepspeed.utils
        self._gather = deepspeed.zero.GatheredParameters
        self._weights = whole_weights(engine.module)

    def weight_names(self) -> list[str]:
        """Names of all parameters, frozen ones too, in one order on all ranks."""
        return list(self._weights)

    def parameter_names(self) -> list[str]:
        """Names of the trained ones among them."""
        return [name for name, weight in self._weights.items() if weight.trained]

    def weight_sizes(self) -> dict[str, int]:
        """Elements of each whole parameter, by `weight_names`."""
        return {name: weight.numel() for name, weight in self._weights.items()}

    def buffers(self) -> dict[str, Tensor]:
        """The buffers that belong to the state dict, by the model's names."""
        module = self._engine.module
        names = module.state_dict().keys()
        return {model_name(name): buffer for name, buffer in module.named_buffers() if name in names}

    def whole_weight(self, name: str) -> Tensor:
        """The fp32 master of a parameter."""
        return self._weights[name].gather(self._master)

    def _master(self, parameter: nn.Parameter) -> Tensor:
        if not parameter.requires_grad:
            return self._frozen(parameter)
        if self._stage == 0:
            return parameter.detach().float()
        whole: Tensor = self._fragments.safe_get_full_fp32_param(parameter)
        return whole.detach()

    def _frozen(self, parameter: nn.Parameter) -> Tensor:
        """A weight that is not trained: it has no master, and only ZeRO 3 takes it apart."""
        if self._stage != 3:
            return parameter.detach().float()
        with self._gather(parameter):
            return parameter.detach().float().clone()

    def whole_state(self, name: str, key: str) -> Tensor:
        """Adam's `key` (one of OPTIMIZER_STATES) of a parameter."""

        def local(parameter: nn.Parameter) -> Tensor:
            if self._stage == 0:
                state: Tensor = self._engine.optimizer.state[parameter][key]
                return state.detach()
            whole: Tensor = self._fragments.safe_get_full_optimizer_state(parameter, key)
            return whole.detach()

        return self._weights[name].gather(local)

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
        if self._stage in (1, 2):
            sharded = self._engine.optimizer
            sharded._hp_optimizer_states_linked = False
            sharded._lazy_init_hp_params_optimizer_state()

    def restore(self, states: Mapping[str, Mapping[str, Tensor]], masters: Mapping[str, Tensor], steps: int) -> None:
        """Put whole tensors back: `states[key][name]` of Adam, and the fp32 `masters[name]`; `steps` were applied.

        The module must already hold the same weights when the engine is made (see mtp.train.state), since a
        master is only more precise than what the module computes with.
        """
        self.reset_optimizer(steps)
        for name in self.parameter_names():
            weight = self._weights[name]
            for key in OPTIMIZER_STATES:
                for parameter, value in weight.scatter(states[key][name]):
                    self._set_state(parameter, value, key)
            if self._stage:
                for parameter, value in weight.scatter(masters[name]):
                    self._set_master(parameter, value)

    def _set_state(self, parameter: nn.Parameter, value: Tensor, key: str) -> None:
        if self._stage == 0:
            self._engine.optimizer.state[parameter][key].copy_(value)
        elif self._stage == 3:
            local = self._fragments.safe_get_local_optimizer_state(parameter, key)
            self._fragments.safe_set_local_optimizer_state(parameter, _slice_of(value, parameter, local.numel()), key)
        else:
            value = value.contiguous().to(parameter.device)
            self._fragments.safe_set_full_optimizer_state(parameter, value, key)

    def _set_master(self, parameter: nn.Parameter, value: Tensor) -> None:
        if self._stage == 3:
            local = self._fragments.safe_get_local_fp32_param(parameter)
            self._fragments.safe_set_local_fp32_param(parameter, _slice_of(value, parameter, local.numel()))
        else:
            self._fragments.safe_set_full_fp32_param(parameter, value.contiguous().to(parameter.device))

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        """The AdamW inside ZeRO's wrapper (stage 0 in fp32 has none)."""
        outer = self._engine.optimizer
        inner: torch.optim.Optimizer = outer.optimizer if self._stage else outer
        return inner

    def _flat_parameters(self) -> Iterator[Tensor]:
        """What AdamW really updates: flat fp32 partitions under ZeRO, the parameters themselves without."""
        if self._stage == 0:
            yield from (parameter for parameter in self._engine.module.parameters() if parameter.requires_grad)
        elif self._stage == 3:
            yield from self._engine.optimizer.fp32_partitioned_groups_flat
        else:
            yield from self._engine.optimizer.single_partition_of_fp32_groups


def _slice_of(value: Tensor, parameter: nn.Parameter, length: int) -> Tensor:
    """This rank's part of `length` elements of a whole tensor, zero-padded at its end as ZeRO 3 pads."""
    flat = value.flatten()
    start = dist.get_rank(getattr(parameter, "ds_process_group", None)) * length
    part = flat[start : start + length]
    return torch.nn.functional.pad(part, (0, length - part.numel()))
