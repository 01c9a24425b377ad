"""From a model folder to the public DeepSeek-V3 layout that transformers, vLLM and SGLang load.

Goes tensor by tensor from file to file: no model is built, and memory holds one tensor.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mtp.checkpoint.config_json import read_config, to_hf
from mtp.checkpoint.folder import expected_shapes, replacing
from mtp.checkpoint.public_layout import duplicates, parts_of, reason_not_to_fit
from mtp.checkpoint.stored_weights import StoredWeights, open_weights
from mtp.checkpoint.streamed_weights import Entry, write_json, write_sharded
from mtp.config import ModelConfig, PredictionConfig
from mtp.errors import UsageError
from mtp.tokenizer import Tokenizer

MAX_SHARD_BYTES = 5_000_000_000


def export_hf(
    folder: str | Path, out: str | Path, *, without_modules: bool = False, max_shard_bytes: int = MAX_SHARD_BYTES
) -> Path:
    """Write the model in `folder` to `out` in the public layout; returns `out`.

    Args:
        folder: a model folder of ours.
        out: a folder that does not exist yet, or is empty.
        without_modules: leave the prediction modules out.
        max_shard_bytes: largest weights file; more than one get an index.

    Raises:
        UsageError: the prediction modules do not fit the layout (and are not left out), or `out` is taken.
        MTPError: the model folder is damaged.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already; export writes a new folder")
    config = read_config(folder)
    reason = reason_not_to_fit(config)
    if reason and not without_modules:
        raise UsageError(f"{folder} cannot be exported: {reason}; --without-modules exports the main model alone")
    weights = open_weights(folder)
    weights.check(expected_shapes(config), folder)
    exported = _without_modules(config) if without_modules else config
    with replacing(out) as staging:
        write_sharded(staging, _entries(weights, exported), max_shard_bytes)
        _write_configs(staging, folder, exported, weights.dtype)
    return out


def _entries(weights: StoredWeights, config: ModelConfig) -> list[Entry]:
    entries = []
    for name in expected_shapes(config):
        for part in parts_of(name, config):
            shape = tuple(torch.empty(weights.shapes[name], device="meta")[part.index].shape)
            entries.append(Entry(part.public, weights.dtypes[name], shape, _reader(weights, name, part.index)))
    for public, name in duplicates(config).items():
        entries.append(Entry(public, weights.dtypes[name], weights.shapes[name], _reader(weights, name, ())))
    return entries


def _reader(weights: StoredWeights, name: str, index: tuple[int | slice, ...]) -> Callable[[], Tensor]:
    return lambda: weights.read(name, index)


def _without_modules(config: ModelConfig) -> ModelConfig:
    return config.model_copy(update={"prediction": PredictionConfig(kind="none", n_future=1)})


def _write_configs(staging: Path, folder: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    """config.json, and the tokenizer in the files that transformers looks for."""
    tokenizer = Tokenizer.load(folder)
    if not config.n_routed_experts:  # how the public layout says that every layer is dense
        config = config.model_copy(update={"first_k_dense_replace": config.num_hidden_layers})
    write_json(staging / "config.json", to_hf(config, dtype=dtype, eos_token_id=tokenizer.eos_id))
    write_json(staging / "generation_config.json", {"eos_token_id": tokenizer.eos_id, "do_sample": False})
    shutil.copyfile(folder / "tokenizer.json", staging / "tokenizer.json")
    write_json(
        staging / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": _text_of(folder / "tokenizer.json", tokenizer.eos_id),
            "clean_up_tokenization_spaces": False,
            "model_max_length": config.max_position_embeddings,
        },
    )


def _text_of(tokenizer_json: Path, special_id: int) -> str:
    """How a special token is written in tokenizer.json."""
    added = json.loads(tokenizer_json.read_text(encoding="utf-8"))["added_tokens"]
    return next(token["content"] for token in added if token["id"] == special_id)
