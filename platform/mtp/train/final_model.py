"""The model folder that a finished run leaves: whole weights from whatever ZeRO stage trained them."""

import tempfile
from pathlib import Path

import torch
from pyarrow.fs import FileSystem, LocalFileSystem, copy_files
from torch import Tensor

from mtp.checkpoint import save_state
from mtp.config import Config
from mtp.tokenizer import Tokenizer
from mtp.train.collective import from_rank_zero
from mtp.train.engine import Engine
from mtp.train.run_folder import RunFolder

MODEL = "model"
_PREFIX = "model."
"""Of the model inside the loss module."""


def write_final_model(engine: Engine, config: Config, tokenizer: Tokenizer, folder: RunFolder, rank: int) -> str:
    """Write `model` into the run's folder, rank 0 for all; its path or URL. Collective."""
    state = whole_state(engine, getattr(torch, config.train.dtype), keep=rank == 0)
    target = f"{folder.path}/{MODEL}"
    if rank == 0:
        if isinstance(folder.filesystem, LocalFileSystem):
            save_state(target, config.model, state, tokenizer)
        else:
            _upload(folder.filesystem, target, config, state, tokenizer)
    shown = target if "://" not in folder.storage_path else f"{folder.storage_path}/{folder.name}/{MODEL}"
    return str(from_rank_zero(shown))


def whole_state(engine: Engine, dtype: torch.dtype, keep: bool) -> dict[str, Tensor]:
    """The model's state dict in `dtype` (buffers in fp32) on the CPU; empty where not kept. Collective."""
    state: dict[str, Tensor] = {}
    for name in engine.state.weight_names():
        weight = engine.state.whole_weight(name)
        if keep:
            state[name.removeprefix(_PREFIX)] = weight.to("cpu", dtype, copy=True).contiguous()
    if keep:
        for name, buffer in engine.state.buffers().items():
            state[name.removeprefix(_PREFIX)] = buffer.to("cpu", copy=True)
    return state


def _upload(
    filesystem: FileSystem, target: str, config: Config, state: dict[str, Tensor], tokenizer: Tokenizer
) -> None:
    with tempfile.TemporaryDirectory() as staging:
        local = save_state(Path(staging) / MODEL, config.model, state, tokenizer)
        copy_files(str(local), target, LocalFileSystem(), filesystem)
