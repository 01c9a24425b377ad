"""Expert parallelism by DeepSpeed's AutoEP: what it makes of our MoE layers, and the way back.

AutoEP replaces every MoE layer when the engine is made: each rank keeps E / N of the experts, and tokens travel to
them and back. It renames the gate, splits `gate_up_proj` in two, and counts nothing that training can use. Here its
layers get our counters again and its parameters their own names, whole. Knows no ZeRO stage and no optimizer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtp.model import MOE_LAYER_PATTERN
from mtp.model.gate import sequence_balance, updated_bias

_GATE_UP, _DOWN = "gate_up_proj", "down_proj"


def autoep_settings(size: int) -> dict[str, Any]:
    """DeepSpeed's `expert_parallel` section for a model inside `mtp.train.loss_module`."""
    if size == 1:
        return {"enabled": False}
    return {
        "enabled": True,
        "autoep_size": size,
        "preset_model": "deepseek_v3",
        "moe_layer_pattern": rf"model\.({MOE_LAYER_PATTERN})",
        "score_func": "sigmoid",
    }


@dataclass(frozen=True)
class WholeWeight:
    """One weight by the name that it has in the model, and the engine's parameters that it lies in."""

    parts: tuple[nn.Parameter, ...]
    """Stacked along dimension 1; just the parameter itself where nothing was split."""
    group: Any = None
    """The ranks that hold one slice of dimension 0 each; None: every rank holds it all (or ZeRO's part of it)."""

    @property
    def trained(self) -> bool:
        """Whether it gets a gradient."""
        return self.parts[0].requires_grad

    def numel(self) -> int:
        """Elements of the whole weight."""
        ranks = 1 if self.group is None else dist.get_world_size(self.group)
        return ranks * sum(int(getattr(part, "ds_numel", part.numel())) for part in self.parts)

    def gather(self, local: Callable[[nn.Parameter], Tensor]) -> Tensor:
        """The whole tensor, where `local` gives one part's values as this rank's expert group has them. Collective."""
        parts = [self._from_all(local(part)) for part in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _from_all(self, value: Tensor) -> Tensor:
        if self.group is None:
            return value
        slices = [torch.empty_like(value) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(slices, value.contiguous(), group=self.group)
        return torch.cat(slices)

    def scatter(self, whole: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The reverse of `gather`: each part with its own values."""
        if self.group is not None:
            whole = whole.chunk(dist.get_world_size(self.group))[dist.get_rank(self.group)]
        return zip(self.parts, whole.chunk(len(self.parts), dim=1) if len(self.parts) > 1 else (whole,), strict=True)


def whole_weights(module: nn.Module) -> dict[str, WholeWeight]:
    """Every parameter of the engine's module by its name in the model, in one order on all ranks."""
    layers = {name: layer for name, layer in module.named_modules() if _is_parallel(layer)}
    weights = {}
    for name, parameter in module.named_parameters():
        owner, _, tail = name.rpartition(".experts.")
        if owner not in layers:
            weights[model_name(name)] = WholeWeight((parameter,))
        elif tail == "w1":  # the up projection, w3, goes with it
            experts = layers[owner].experts
            weights[f"{owner}.experts.{_GATE_UP}"] = WholeWeight((experts.w1, experts.w3), layers[owner].ep_group)
        elif tail == "w2":
            weights[f"{owner}.experts.{_DOWN}"] = WholeWeight((parameter,), layers[owner].ep_group)
    return weights


def model_name(name: str) -> str:
    """The model's own name of a parameter or buffer that AutoEP may have moved."""
    return name.replace(".mlp.router.gate.", ".mlp.gate.").replace(".mlp.router.", ".mlp.gate.")


def parallel_layers(module: nn.Module) -> list["ParallelExperts"]:
    """The layers that AutoEP put in, in the model's order, each with our counters."""
    return [ParallelExperts(layer) for layer in module.modules() if _is_parallel(layer)]


def _is_parallel(layer: nn.Module) -> bool:
    return getattr(layer, "_is_autoep_layer", False)


class ParallelExperts:
    """What `mtp.model.moe.MoE` offers a trainer, of a layer of AutoEP: counts, bias update, balance loss.

    AutoEP's own counter also counts evaluation and recomputed activations, so ours hang on its router.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.record_balance = False
        self.balance_loss: Tensor | None = None
        self.tokens_per_expert = torch.zeros_like(layer.tokens_per_expert, dtype=torch.int64)
        self._rows = torch.Size()
        self._scores: Tensor | None = None
        layer.forward = torch.compiler.disable(layer.forward)  # as in mtp.model.block
        layer.register_forward_pre_hook(self._enter)
        layer.router.gate.register_forward_hook(self._scored)
        layer.router.register_forward_hook(self._routed)

    @property
    def bias(self) -> Tensor:
        """The correction bias (E,), the buffer that the router adds when it chooses."""
        bias: Tensor = self._layer.router.e_score_correction_bias
        return bias

    def reset_counts(self) -> None:
        """Forget the counts; call after each optimizer step."""
        self.tokens_per_expert.zero_()

    @torch.no_grad()
    def update_expert_bias(self, counts: Tensor, speed: float) -> None:
        """b += gamma * sign(mean(load) - load) with the counts (E,) of the global batch."""
        self.bias.copy_(updated_bias(self.bias, counts.to(self.bias.device), speed))

    def _enter(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._rows = inputs[0].shape[:2]

    def _scored(self, _: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        if self.record_balance and self._training():
            self._scores = logits.float().sigmoid()

    def _routed(self, _: nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        if not self._training():
            return
        chosen, counts = output[1:]
        if not getattr(self._layer, "recomputing", False):
            self.tokens_per_expert.add_(counts.to(torch.int64))
        if self._scores is not None:
            self.balance_loss = sequence_balance(self._scores.unflatten(0, self._rows), chosen.unflatten(0, self._rows))
            self._scores = None

    def _training(self) -> bool:
        return bool(self._layer.training) and torch.is_grad_enabled()
