"""config.json of a model folder: Hugging Face's flat keys for deepseek_v3, plus our `prediction` section.

Written so that transformers, vLLM and SGLang find every key they look for. Reading takes what the model needs, and
refuses values of keys that would change the computation in a way this architecture does not know.
"""

import json
from pathlib import Path
from typing import Any

import torch
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
"""What every model of this architecture says."""

_CHANGES_RESULTS = ("model_type", "hidden_act", "attention_bias", "rope_interleave", "scoring_func", "topk_method")
"""Fixed keys of which another value means another model; null means the default."""

_HF_DEFAULTS: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
}
"""transformers leaves out keys that have its defaults, which are the published model's and not ours."""

_NULLS = {"n_routed_experts": 0, "n_shared_experts": 0, "n_group": 1, "topk_group": 1}
"""What null means for keys that are numbers with us."""

_YARN_KEYS = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def to_hf(config: ModelConfig, *, dtype: torch.dtype, eos_token_id: int | None = None) -> dict[str, Any]:
    """The keys of config.json of a model whose weights have `dtype`."""
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
        "torch_dtype": str(dtype).removeprefix("torch."),
        "prediction": prediction,
    }


def from_hf(keys: dict[str, Any], where: str, modules: int = 0) -> ModelConfig:
    """The `ModelConfig` that config.json's keys describe.

    Args:
        keys: of config.json; without our `prediction` they are a public checkpoint's.
        where: the file, for errors.
        modules: sequential modules of a public checkpoint whose config does not count them.

    Raises:
        MTPError: a key has a value that this architecture does not know.
    """
    _refuse_other_models(keys, where)
    values = {**_HF_DEFAULTS, **{name: keys[name] for name in ModelConfig.model_fields if name in keys}}
    values.update({name: nothing for name, nothing in _NULLS.items() if values[name] is None})
    values.update(_rope(keys, where))
    if "prediction" not in values:
        modules = keys.get("num_nextn_predict_layers", modules) or 0
        kind = "sequential" if modules else "none"
        values["prediction"] = {"kind": kind, "n_future": modules + 1}
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the keys disagree"
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


def _refuse_other_models(keys: dict[str, Any], where: str) -> None:
    for key in _CHANGES_RESULTS:
        if keys.get(key) is not None and keys[key] != _FIXED[key]:
            raise MTPError(f"{where}: {key} is {keys[key]!r}; this architecture knows only {_FIXED[key]!r}")
    heads = keys.get("num_key_value_heads")
    if heads is not None and heads != keys.get("num_attention_heads", heads):
        raise MTPError(f"{where}: num_key_value_heads is {heads}; latent attention has as many as num_attention_heads")
    if keys.get("quantization_config"):
        raise MTPError(f"{where}: quantization_config is set; dequantise the weights to bfloat16 or float32 first")


def _rope(keys: dict[str, Any], where: str) -> dict[str, Any]:
    """rope_theta and rope_scaling, from the published form or from transformers 5's `rope_parameters`."""
    rope = dict(keys.get("rope_parameters") or keys.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", keys.get("rope_theta", 10000.0))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if kind != "yarn":
        raise MTPError(f"{where}: rope_scaling is of type {kind!r}; this architecture knows only 'yarn'")
    # Keys that the file leaves out do not scale anything in transformers; our defaults would.
    scaling = {"mscale": 0.0, "mscale_all_dim": 0.0, **{key: rope[key] for key in _YARN_KEYS if key in rope}}
    return {"rope_theta": theta, "rope_scaling": {"type": "yarn", **scaling}}
