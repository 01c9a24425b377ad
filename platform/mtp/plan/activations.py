"""How many bytes a forward keeps for the backward, counted from the modules' shapes.

Every tensor that autograd saves in mtp.model is counted once, in elements a token:

    norm of width w          2w fused, 3w where the normalised values are kept too
    latent attention         norm(d) + queries [3 r_q] + latents (r + p) + 2r + heads x (2 (n + p) + 2v) [+ softmax]
    SwiGLU of width f        4f
    experts                  k (3d + 4f): gathered inputs, gate, up, silu, product, outputs and weighted outputs

d hidden_size, r kv_lora_rank, n nope, p rope, v value size of a head, k experts a token. Parameters are not counted.
A test compares with what autograd really saves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from mtp.config import ModelConfig
from mtp.model import MTPModel
from mtp.model.block import Block
from mtp.model.moe import MoE
from mtp.plan.accelerators import Accelerator


@dataclass(frozen=True)
class Activations:
    """Elements a token."""

    backbone: float
    modules: float
    largest_layer: float
    """What stands beside the layers' inputs when activations are computed again."""


def saved_elements(model: MTPModel, seq_len: int, device: Accelerator, checkpointing: bool) -> Activations:
    """Elements that a forward of rows of `seq_len` saves for each token; `model` may lie on the meta device."""
    config = model.config
    d, norm = config.hidden_size, _norm(device)

    def layers(blocks: list[Block]) -> float:
        return sum(d if checkpointing else _block(block, config, seq_len, device) for block in blocks)

    modules = model.prediction
    of_modules = layers(_blocks(modules)) * modules.runs
    if config.prediction.kind == "sequential":
        of_modules += (config.n_future - 1) * (2 * norm * d + 2 * d + norm * d)  # enorm, hnorm, both joined, norm
    elif config.prediction.kind != "none":
        of_modules += (config.n_future - 1) * norm * d
    largest = max(_block(block, config, seq_len, device) for block in _blocks(model))
    return Activations(
        backbone=layers(_blocks(model.model)) + norm * d,
        modules=of_modules,
        largest_layer=largest if checkpointing else 0.0,
    )


def _blocks(module: nn.Module) -> list[Block]:
    return [child for child in module.modules() if isinstance(child, Block)]


def _block(block: Block, config: ModelConfig, seq_len: int, device: Accelerator) -> float:
    return sum(_attention(config, seq_len, device)) + sum(_feed_forward(block, config, device))


def _attention(config: ModelConfig, seq_len: int, device: Accelerator) -> Iterator[float]:
    norm, heads = _norm(device), config.num_attention_heads
    yield norm * config.hidden_size
    if config.q_lora_rank is not None:
        yield norm * config.q_lora_rank
    yield config.kv_lora_rank + config.qk_rope_head_dim
    yield (norm - 1) * config.kv_lora_rank
    yield heads * 2 * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    if not device.fused_attention:
        yield heads * _kept_keys(seq_len)


def _feed_forward(block: Block, config: ModelConfig, device: Accelerator) -> Iterator[float]:
    d = config.hidden_size
    yield _norm(device) * d
    if not isinstance(block.mlp, MoE):
        yield 4 * config.intermediate_size
        return
    yield config.num_experts_per_tok * (3 * d + 4 * config.moe_intermediate_size)
    yield 4 * config.moe_intermediate_size * config.n_shared_experts
    yield 2 * config.n_routed_experts  # scores, and what chose among them


def _kept_keys(seq_len: int) -> float:
    """Mean keys that a query keeps probabilities for: mtp.model.blockwise_attention keeps blocks up to their ends."""
    block = min(max(seq_len // 4, 64), 128, seq_len)
    return (seq_len + block) / 2


def _norm(device: Accelerator) -> int:
    """Widths that a norm keeps, its output included."""
    return 2 if device.fused_attention else 3
