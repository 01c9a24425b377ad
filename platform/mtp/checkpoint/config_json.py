"""config.json of a model folder: Hugging Face's flat keys for deepseek_v3, plus our `prediction` section.

The file is written so that transformers, vLLM and SGLang find every key they look for. Reading takes only what the
model needs, and refuses values that this architecture does not have rather than ignoring them.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtp.config import ModelConfig
from mtp.errors import MTPError

_FIXED: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_interleave": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "ep_size": 1,
    "pretraining_tp": 1,
    "use_cache": True,
}
"""What every model of this architecture says; a file that says otherwise is refused."""

_INFORMATIVE = {"architectures", "attention_dropout", "ep_size", "pretraining_tp", "use_cache"}
"""Fixed keys whose other values would not change the logits."""


def to_hf(config: ModelConfig, *, dtype: str, eos_token_id: int | None = None) -> dict[str, Any]:
    """The keys of config.json; `dtype` is torch's name without its prefix, such as `float32`."""
    keys = config.model_dump(mode="json")
    prediction = keys.pop("prediction")
    return {
        **_FIXED,
        **keys,
        "num_key_value_heads": config.num_attention_heads,
        "num_nextn_predict_layers": config.num_nextn_predict_layers,
        "bos_token_id": None,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
        "torch_dtype": dtype,
        "prediction": prediction,
    }


def from_hf(keys: dict[str, Any], where: str) -> ModelConfig:
    """The `ModelConfig` that config.json's keys describe; without `prediction`, sequential modules or none.

    Raises:
        MTPError: a key is missing or has a value that this architecture does not know; it names key and file.
    """
    for key, expected in _FIXED.items():
        if key in keys and key not in _INFORMATIVE and keys[key] not in (expected, None):
            raise MTPError(f"{where}: {key} is {keys[key]!r}; this model only knows {expected!r}")
    values = {name: keys[name] for name in ModelConfig.model_fields if name in keys}
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise MTPError(f"{where}: key {missing[0]} is missing (and {len(missing) - 1} more)")
    values.setdefault("prediction", _prediction(keys))
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the configuration"
        raise MTPError(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}") from None


def read_config(folder: Path) -> ModelConfig:
    """The configuration of the model in `folder`."""
    return from_hf(read_keys(folder), str(folder / "config.json"))


def read_keys(folder: Path) -> dict[str, Any]:
    """All keys of `folder`/config.json as they stand there."""
    path = folder / "config.json"
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MTPError(f"cannot read {path}: {error.strerror}; is {folder} a model folder?") from None
    except ValueError as error:
        raise MTPError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(keys, dict):
        raise MTPError(f"{path} holds a {type(keys).__name__}, not an object of configuration keys")
    return keys


_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
)


def _prediction(keys: dict[str, Any]) -> dict[str, Any]:
    """The section for a public checkpoint, which only counts its sequential modules."""
    modules = keys.get("num_nextn_predict_layers") or 0
    return {"kind": "sequential", "n_future": modules + 1} if modules else {"kind": "none", "n_future": 1}
