"""The tensors of a checkpoint: taken apart from an engine, and put back under any ZeRO stage and number of workers.

A checkpoint holds whole tensors by parameter name: the fp32 master weight and Adam's two moments, each in the file of
one rank, plus every rank's random state and, in rank 0's file, the buffers (the experts' bias). Nothing in it depends
on how the run was sharded, and it is safetensors, so loading it runs no code. The price against DeepSpeed's own
format is one gather of three times the weights a save.
"""

from collections.abc import Mapping

import torch
from pyarrow.fs import FileSystem
from safetensors.torch import load
from torch import Tensor, nn

from mtp.train.engine import Engine
from mtp.train.partitions import OPTIMIZER_STATES

_WEIGHT, _BUFFER, _RANDOM = "weight:", "buffer:", "random_state"


def shard_name(rank: int) -> str:
    """The file of one rank."""
    return f"state-{rank:05d}.safetensors"


def owners(sizes: Mapping[str, int], world: int) -> dict[str, int]:
    """Which rank writes each parameter: the largest first, each to the rank with least so far."""
    load = [0] * world
    owner = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner[name] = load.index(min(load))
        load[owner[name]] += sizes[name]
    return owner


def collect(engine: Engine, rank: int) -> dict[str, Tensor]:
    """This rank's share of the training state, on the CPU. Collective: every rank calls it at the same step."""
    state = engine.state
    owner = owners(state.weight_sizes(), engine.world)
    share: dict[str, Tensor] = {_RANDOM: torch.get_rng_state()}
    trained = set(state.parameter_names())
    for name in state.weight_names():
        weight = state.whole_weight(name)
        moments = {key: state.whole_state(name, key) for key in OPTIMIZER_STATES if name in trained}
        if owner[name] == rank:
            share[_WEIGHT + name] = _plain(weight)
            share |= {f"{key}:{name}": _plain(moment) for key, moment in moments.items()}
    if rank == 0:
        share |= {_BUFFER + name: _plain(buffer) for name, buffer in state.buffers().items()}
    return share


class SavedState:
    """All the files of one checkpoint, read."""

    def __init__(self, filesystem: FileSystem, folder: str, world: int) -> None:
        """`world`: the number of ranks that wrote the checkpoint in `folder`."""
        self._random: list[Tensor] = []
        self.weights: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.moments: dict[str, dict[str, Tensor]] = {key: {} for key in OPTIMIZER_STATES}
        for rank in range(world):
            with filesystem.open_input_stream(f"{folder}/{shard_name(rank)}") as stream:
                shard = load(stream.read())
            self._random.append(shard.pop(_RANDOM))
            for key, tensor in shard.items():
                self._sort_in(key, tensor)

    def _sort_in(self, key: str, tensor: Tensor) -> None:
        kind, _, name = key.partition(":")
        if kind in self.moments:
            self.moments[kind][name] = tensor
        else:
            (self.weights if kind + ":" == _WEIGHT else self.buffers)[name] = tensor

    def load_weights(self, module: nn.Module) -> None:
        """Weights and buffers into a module that no engine has taken yet."""
        module.load_state_dict({**self.weights, **self.buffers}, strict=False)

    def load_optimizer(self, engine: Engine, applied_steps: int) -> None:
        """Adam's moments and the fp32 masters into an engine made of the module that `load_weights` filled."""
        engine.state.restore(self.moments, self.weights, applied_steps)

    def load_random_state(self, rank: int) -> None:
        """This rank's generator, if a rank of that number wrote the checkpoint."""
        if rank < len(self._random):
            torch.set_rng_state(self._random[rank])


def _plain(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares nothing with the engine."""
    return tensor.detach().to("cpu", copy=True).contiguous()
