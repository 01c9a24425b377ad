"""Writes a model in the public DeepSeek-V3 layout as a GGUF file for llama.cpp's architecture deepseek2, in fp32.

Runs in the peer's own interpreter (numpy, safetensors, gguf); imports nothing of mtp. llama.cpp's converter refuses
tokenizers that it does not know; here prompts and outputs are token ids, so the vocabulary only has to be there.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]
import numpy as np
from safetensors.numpy import load_file

NORMAL, CONTROL = 1, 3
DENSE = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
BLOCK = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    **{f"mlp.{part}.weight": f"{name}.weight" for part, name in DENSE.items()},
    **{f"mlp.shared_experts.{part}.weight": f"{name}_shexp.weight" for part, name in DENSE.items()},
    "eh_proj.weight": "nextn.eh_proj.weight",
    "enorm.weight": "nextn.enorm.weight",
    "hnorm.weight": "nextn.hnorm.weight",
    "embed_tokens.weight": "nextn.embed_tokens.weight",
    "shared_head.head.weight": "nextn.shared_head_head.weight",
    "shared_head.norm.weight": "nextn.shared_head_norm.weight",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_gguf(folder: Path, path: Path, *, modules: bool) -> None:
    """The model in `folder` as `path`; with or without its prediction module (llama.cpp knows one)."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {
        name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }
    count = config["num_hidden_layers"] + (1 if modules else 0)
    writer = gguf.GGUFWriter(path, "deepseek2")
    _describe(writer, config, count, modules)
    _add_vocabulary(writer, json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")), config)
    for public, name in WHOLE.items():
        if public in weights:
            writer.add_tensor(name, _fp32(weights[public]))
    for layer in range(count):
        for name, tensor in _block(weights, f"model.layers.{layer}.", config):
            writer.add_tensor(f"blk.{layer}.{name}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: dict[str, Any], count: int, modules: bool) -> None:
    rank, rope, nope = config["kv_lora_rank"], config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    writer.add_block_count(count)
    if modules:
        writer.add_nextn_predict_layers(1)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1)  # MLA with the up-projections absorbed: all heads share one latent
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(rope)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    if config.get("q_lora_rank"):
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    texts = {number: text for text, number in tokenizer["model"]["vocab"].items()} | special
    size = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([texts.get(number, f"<unused {number}>") for number in range(size)])
    writer.add_token_types([CONTROL if number in special or number not in texts else NORMAL for number in range(size)])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def _block(weights: dict[str, np.ndarray], prefix: str, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for public, name in BLOCK.items():
        if prefix + public in weights:
            yield name, _fp32(weights[prefix + public])
    heads, nope, value = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
    up = _fp32(weights[prefix + "self_attn.kv_b_proj.weight"]).reshape(heads, nope + value, -1)
    yield "attn_k_b.weight", np.ascontiguousarray(up[:, :nope].transpose(0, 2, 1))
    yield "attn_v_b.weight", np.ascontiguousarray(up[:, nope:])
    if prefix + "mlp.experts.0.gate_proj.weight" in weights:
        for part, name in DENSE.items():
            experts = [weights[f"{prefix}mlp.experts.{e}.{part}.weight"] for e in range(config["n_routed_experts"])]
            yield f"{name}_exps.weight", np.stack([_fp32(expert) for expert in experts])


def _fp32(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32)
