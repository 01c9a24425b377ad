"""A model folder: config.json, model.safetensors, tokenizer.json. Written as a whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mtp.checkpoint.config_json import read_config, to_hf
from mtp.checkpoint.stored_weights import FP32_BUFFER, WEIGHTS, open_weights
from mtp.checkpoint.streamed_weights import Entry, flush, write_file, write_json
from mtp.config import ModelConfig
from mtp.model import MTPModel, model_on_meta
from mtp.tokenizer import Tokenizer

CACHE_LINE = 64
"""Bytes; PyTorch's own memory begins with one."""


def save_model(folder: str | Path, model: MTPModel, tokenizer: Tokenizer) -> Path:
    """Write `model` and `tokenizer` as a model folder, replacing one that is there; returns it."""
    return save_state(folder, model.config, model.state_dict(), tokenizer)


def save_state(folder: str | Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer) -> Path:
    """The same from a state dict, for a trainer whose model is spread over ranks."""
    entries = [
        Entry(name, tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in state.items()
        if not _is_tied(config, name)
    ]
    return write_folder(folder, config, entries, state["model.embed_tokens.weight"].dtype, tokenizer)


def write_folder(
    folder: str | Path, config: ModelConfig, entries: list[Entry], dtype: torch.dtype, tokenizer: Tokenizer
) -> Path:
    """A model folder from tensors that are read when their turn comes."""
    folder = Path(folder)
    with replacing(folder) as staging:
        write_file(staging / WEIGHTS, entries)
        write_json(staging / "config.json", to_hf(config, dtype=dtype, eos_token_id=tokenizer.eos_id))
        tokenizer.save(staging / "tokenizer.json")
    return folder


def load_model_config(folder: str | Path) -> ModelConfig:
    """The configuration of the model in `folder`."""
    return read_config(Path(folder))


def load_model(folder: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> MTPModel:
    """The model in `folder`, in evaluation mode; `dtype` None keeps the stored one.

    Raises:
        MTPError: a file is missing or damaged, or a tensor is missing, unknown, misshapen, of another dtype than the
            rest, or not finite; it names the file and the tensor or key.
    """
    folder = Path(folder)
    config = read_config(folder)
    model = model_on_meta(config)
    weights = open_weights(folder)
    wanted = expected_shapes(config)
    weights.check(wanted, folder)
    state = {}
    for name in wanted:
        target = torch.float32 if name.endswith(FP32_BUFFER) else dtype
        state[name] = _on_a_line(weights.read(name).to(device=device, dtype=target))
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.share_weights()
    for layer in model.expert_layers():
        layer.tokens_per_expert = torch.zeros_like(layer.tokens_per_expert, device=device)
    return model.eval()


def _on_a_line(tensor: Tensor) -> Tensor:
    """The same values where a line of the processor's caches begins, which they seldom do in a file's mapping.

    A vector that crosses a line takes as long to load as two: matrix products were half as fast.
    """
    return tensor if tensor.data_ptr() % CACHE_LINE == 0 else tensor.clone()


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the model.safetensors of such a model, in the model's order."""
    state = model_on_meta(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not _is_tied(config, name)}


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A staging folder beside `folder` that takes its place when the block ends well, and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield staging
        staging.chmod(0o755)
        flush(staging)
        if folder.exists():
            old = staging.with_suffix(".old")
            folder.replace(old)
            staging.replace(folder)
            shutil.rmtree(old)
        else:
            staging.replace(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_tied(config: ModelConfig, name: str) -> bool:
    return config.tie_word_embeddings and name == "lm_head.weight"
