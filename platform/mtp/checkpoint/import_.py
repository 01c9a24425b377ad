"""From the public DeepSeek-V3 layout to a model folder of ours: the inverse of export, tensor by tensor."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtp.checkpoint.config_json import from_hf, read_keys
from mtp.checkpoint.folder import expected_shapes, write_folder
from mtp.checkpoint.public_layout import Part, duplicates, parts_of
from mtp.checkpoint.stored_weights import FP32_BUFFER, StoredWeights, open_weights
from mtp.checkpoint.streamed_weights import Entry
from mtp.config import ModelConfig
from mtp.errors import MTPError, UsageError
from mtp.tokenizer import Tokenizer


def import_hf(directory: str | Path, out: str | Path) -> Path:
    """Read the checkpoint in `directory` and write it to `out` as a model folder; returns `out`.

    Reads config.json, safetensors (one file or shards with an index) and tokenizer.json; never pickled weights. The
    copies of embedding and head in each prediction module's layer may be absent, but must equal the originals.

    Raises:
        UsageError: `directory` is no folder, such as an archive.
        MTPError: a file is missing or damaged, or a tensor is missing, unknown, misshapen, of another dtype than the
            rest, or not finite; it names the file and the tensor or key.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory} is no folder; give the folder of a checkpoint (archives are not unpacked)")
    weights = open_weights(directory)
    keys = read_keys(directory)
    config = from_hf(keys, str(directory / "config.json"), modules=_modules_in(weights, keys))
    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise MTPError(
            f"{directory / 'tokenizer.json'} has {tokenizer.vocab_size} entries, more than vocab_size "
            f"({config.vocab_size}) in config.json"
        )
    shapes = expected_shapes(config)
    parts = {name: parts_of(name, config) for name in shapes}
    weights.check(_public_shapes(weights, config, shapes, parts), directory)
    _check_duplicates(weights, config)
    entries = [
        Entry(name, _dtype(weights, parts[name]), shape, _assembler(weights, shape, parts[name]))
        for name, shape in shapes.items()
    ]
    return write_folder(out, config, entries, weights.dtype, tokenizer)


def _modules_in(weights: StoredWeights, keys: dict[str, Any]) -> int:
    """Prediction modules that the tensors' names show, for a config.json that does not count them."""
    layers = {int(match[1]) for name in weights.shapes if (match := re.match(r"model\.layers\.(\d+)\.eh_proj", name))}
    return len(layers)


def _public_shapes(
    weights: StoredWeights, config: ModelConfig, shapes: dict[str, tuple[int, ...]], parts: dict[str, list[Part]]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the checkpoint must have."""
    wanted = {}
    for name, shape in shapes.items():
        whole = torch.empty(shape, device="meta")
        wanted.update({part.public: tuple(whole[part.index].shape) for part in parts[name]})
    optional = {copy: shapes[name] for copy, name in duplicates(config).items() if copy in weights.shapes}
    if config.tie_word_embeddings and "lm_head.weight" in weights.shapes:
        optional["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    return {**wanted, **optional}


def _check_duplicates(weights: StoredWeights, config: ModelConfig) -> None:
    copies = duplicates(config)
    if config.tie_word_embeddings:
        copies["lm_head.weight"] = "model.embed_tokens.weight"
    for copy, name in copies.items():
        if copy in weights.shapes and not torch.equal(weights.read(copy), weights.read(name)):
            raise MTPError(
                f"{weights.where(copy)}: tensor {copy} differs from {name}; prediction modules of their own embedding "
                f"or head are not supported"
            )


def _dtype(weights: StoredWeights, parts: list[Part]) -> torch.dtype:
    """The checkpoint's dtype; the gates' biases are kept in fp32."""
    return torch.float32 if parts[0].public.endswith(FP32_BUFFER) else weights.dtype


def _assembler(weights: StoredWeights, shape: tuple[int, ...], parts: list[Part]) -> Callable[[], Tensor]:
    """Reads the parts into one tensor when it is called."""

    def assemble() -> Tensor:
        if parts[0].index == ():
            return weights.read(parts[0].public).to(_dtype(weights, parts))
        whole = torch.empty(shape, dtype=_dtype(weights, parts))
        for part in parts:
            whole[part.index] = weights.read(part.public)
        return whole

    return assemble
