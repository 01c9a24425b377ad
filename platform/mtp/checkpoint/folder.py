"""A model folder: config.json, model.safetensors, tokenizer.json. Written as a whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtp.checkpoint.config_json import read_config, to_hf
from mtp.checkpoint.weights import check_names, flush, read_tensors, shapes_of, write_safetensors
from mtp.config import ModelConfig
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
FP32_BUFFERS = ("e_score_correction_bias",)
"""Last names of tensors that stay fp32 in a model of any dtype."""


def save_model(folder: str | Path, model: MTPModel, tokenizer: Tokenizer) -> Path:
    """Write `model` and `tokenizer` as a model folder, replacing one that is there."""
    return save_state(folder, model.config, model.state_dict(), tokenizer)


def save_state(folder: str | Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer) -> Path:
    """The same from a state dict, for a trainer whose model is spread over ranks."""
    folder = Path(folder)
    kept = {name: tensor for name, tensor in state.items() if not _is_tied(config, name)}
    dtype = str(state["model.embed_tokens.weight"].dtype).removeprefix("torch.")
    with replacing(folder) as staging:
        write_safetensors(staging / WEIGHTS, kept)
        write_json(staging / "config.json", to_hf(config, dtype=dtype, eos_token_id=tokenizer.eos_id))
        tokenizer.save(staging / "tokenizer.json")
    return folder


def load_model_config(folder: str | Path) -> ModelConfig:
    """The configuration of the model in `folder`."""
    return read_config(Path(folder))


def load_model(folder: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> MTPModel:
    """The model in `folder`, in evaluation mode; `dtype` None keeps the stored one.

    Raises:
        MTPError: a file is missing or damaged, or a tensor is missing, unknown, misshapen or not finite.
    """
    folder = Path(folder)
    config = read_config(folder)
    with torch.device("meta"):
        model = MTPModel(config)
    wanted = expected_shapes(model)
    path = folder / WEIGHTS
    check_names(path, shapes_of(path), wanted)
    state = {name: placed(name, tensor, device, dtype) for name, tensor in read_tensors(path, list(wanted))}
    return filled(model, state, device)


def expected_shapes(model: MTPModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that model.safetensors holds for `model`."""
    state = model.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not _is_tied(model.config, name)}


def placed(name: str, tensor: Tensor, device: str, dtype: torch.dtype | None) -> Tensor:
    """A stored tensor on its device, in its dtype."""
    target = torch.float32 if name.endswith(FP32_BUFFERS) else dtype
    return tensor.to(device=device, dtype=target)


def filled(model: MTPModel, state: dict[str, Tensor], device: str) -> MTPModel:
    """A model built on the meta device, with `state` as its weights; in evaluation mode."""
    if model.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.share_weights()
    for layer in model.expert_layers():
        layer.tokens_per_expert = torch.zeros_like(layer.tokens_per_expert, device=device)
    return model.eval()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write and flush a JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    flush(path)


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
