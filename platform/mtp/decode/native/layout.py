"""The C++ step's structures as ctypes, field by field, and how a model's modules fill them.

Weights are used where they lie, without a copy; W_UK alone is transposed, so that both absorbed products read rows.
`keep` holds whatever was made here, for as long as the structures are used.
"""

import ctypes
from ctypes import c_float, c_int64, c_void_p

import torch
from torch import Tensor, nn

from mtp.decode.native.int8 import quantised
from mtp.model.attention import LATENT_NORM_EPS, LatentAttention
from mtp.model.block import Block
from mtp.model.mlp import SwiGLU
from mtp.model.moe import MoE
from mtp.model.norm import RMSNorm
from mtp.model.prediction.sequential import SequentialModule


class Weight(ctypes.Structure):
    """(out, in) values, fp32, or int8 with scales; several stacked for heads and experts."""

    _fields_ = [("data", c_void_p), ("scale", c_void_p), ("rows", c_int64), ("columns", c_int64)]


class AttentionStruct(ctypes.Structure):
    """struct Attention of attention.h."""

    _fields_ = [
        *((name, Weight) for name in ("q_a", "q", "kv_a", "up_key", "up_value", "out")),
        *((name, c_void_p) for name in ("q_a_norm", "kv_a_norm")),
        *((name, c_int64) for name in ("heads", "nope", "rope", "value", "rank")),
        ("scale", c_float),
        ("latent_eps", c_float),
    ]


class TokensStruct(ctypes.Structure):
    """struct Tokens of attention.h."""

    _fields_ = [
        ("count", c_int64),
        *((name, c_void_p) for name in ("positions", "row_of", "tables")),
        ("table_width", c_int64),
        ("block_size", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
    ]


class SwiGLUStruct(ctypes.Structure):
    """struct SwiGLU of feed_forward.h."""

    _fields_ = [(name, Weight) for name in ("gate", "up", "down")]


class MoEStruct(ctypes.Structure):
    """struct MoE of feed_forward.h."""

    _fields_ = [
        ("router", c_void_p),
        ("bias", c_void_p),
        ("gate_up", Weight),
        ("down", Weight),
        *((name, c_int64) for name in ("experts", "top_k", "groups", "top_groups", "ff", "normalise")),
        ("scale", c_float),
    ]


class BlockStruct(ctypes.Structure):
    """struct Block of pass.h."""

    _fields_ = [
        ("attention", AttentionStruct),
        ("input_norm", c_void_p),
        ("post_norm", c_void_p),
        ("dense", SwiGLUStruct),
        ("shared", SwiGLUStruct),
        ("moe", MoEStruct),
        ("eps", c_float),
        ("pages", c_void_p),
    ]


class JoinStruct(ctypes.Structure):
    """struct Join of pass.h."""

    _fields_ = [("embedding_norm", c_void_p), ("hidden_norm", c_void_p), ("projection", Weight), ("eps", c_float)]


class PassStruct(ctypes.Structure):
    """struct Pass of pass.h."""

    _fields_ = [
        ("blocks", c_void_p),
        ("block_count", c_int64),
        ("hidden_size", c_int64),
        ("embedding", c_void_p),
        ("final_norm", c_void_p),
        ("final_eps", c_float),
        ("join", JoinStruct),
        ("ids", c_void_p),
        ("hidden", c_void_p),
        ("output", c_void_p),
        ("places", c_void_p),
        ("tokens", TokensStruct),
        ("threads", c_int64),
    ]


class BatchStruct(ctypes.Structure):
    """struct Batch of greedy.h."""

    _fields_ = [
        ("embedding", c_void_p),
        ("hidden_size", c_int64),
        ("tokens", c_void_p),
        ("token_width", c_int64),
        ("span", c_int64),
        ("rows", c_void_p),
        ("count", c_int64),
        ("tables", TokensStruct),
        ("threads", c_int64),
    ]


class LevelStruct(ctypes.Structure):
    """struct Level of greedy.h."""

    _fields_ = [
        ("blocks", c_void_p),
        ("block_count", c_int64),
        ("final_norm", c_void_p),
        ("final_eps", c_float),
        ("join", JoinStruct),
        ("head", Weight),
        ("inputs", c_void_p),
        ("outputs", c_void_p),
    ]


class ChainStruct(ctypes.Structure):
    """struct Chain of greedy.h."""

    _fields_ = [
        ("batch", BatchStruct),
        ("levels", c_void_p),
        ("filled", c_void_p),
        ("depth", c_int64),
        *((name, c_void_p) for name in ("lengths", "counts")),
    ]


class VerificationStruct(ctypes.Structure):
    """struct Verification of greedy.h."""

    _fields_ = [
        ("batch", BatchStruct),
        ("backbone", LevelStruct),
        *((name, c_void_p) for name in ("starts", "counts")),
        ("width", c_int64),
        *((name, c_void_p) for name in ("choices", "accepted", "finite")),
    ]


class Layout:
    """Fills the structures from modules; `int8` quantises linear layers on the way."""

    def __init__(self, *, int8: bool) -> None:
        self._int8 = int8
        self.keep: list[Tensor] = []
        self._made: dict[tuple[int, tuple[int, ...]], Weight] = {}

    def weight(self, tensor: Tensor) -> Weight:
        """(..., out, in) of a linear layer; the same tensor (a shared module's) is taken once."""
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in self._made:
            self._made[key] = self._weight(tensor.detach().contiguous())
        return self._made[key]

    def vector(self, tensor: Tensor) -> int:
        """Address of fp32 values that stay as they are."""
        tensor = tensor.detach().contiguous()
        self.keep.append(tensor)
        return tensor.data_ptr()

    def block(self, block: Block, pages: Tensor) -> BlockStruct:
        """One transformer layer over its part of the cache."""
        struct = BlockStruct(eps=block.input_layernorm.eps, pages=pages.data_ptr())
        struct.attention = self._attention(block.self_attn)
        struct.input_norm = self.vector(block.input_layernorm.weight)
        struct.post_norm = self.vector(block.post_attention_layernorm.weight)
        if isinstance(block.mlp, MoE):
            struct.moe = self._moe(block.mlp)
            if block.mlp.shared_experts is not None:
                struct.shared = self._swiglu(block.mlp.shared_experts)
        elif isinstance(block.mlp, SwiGLU):
            struct.dense = self._swiglu(block.mlp)
        return struct

    def join(self, module: SequentialModule) -> JoinStruct:
        """The input of a sequential module."""
        return JoinStruct(
            self.vector(module.enorm.weight),
            self.vector(module.hnorm.weight),
            self.weight(module.eh_proj.weight),
            module.enorm.eps,
        )

    def norm(self, norm: nn.Module) -> tuple[int | None, float]:
        """Address and eps of a final norm; none for Identity."""
        return (self.vector(norm.weight), norm.eps) if isinstance(norm, RMSNorm) else (None, 0.0)

    def _weight(self, tensor: Tensor) -> Weight:
        scale = None
        if self._int8:
            tensor, scales = quantised(tensor)
            self.keep.append(scales)
            scale = scales.data_ptr()
        self.keep.append(tensor)
        return Weight(tensor.data_ptr(), scale, tensor.shape[-2], tensor.shape[-1])

    def _attention(self, module: LatentAttention) -> AttentionStruct:
        up = module.kv_b_proj.weight.detach().unflatten(0, (module.heads, -1))
        struct = AttentionStruct(
            heads=module.heads,
            nope=module.nope,
            rope=module.rope,
            value=module.v,
            rank=module.rank,
            scale=module.scale,
            latent_eps=LATENT_NORM_EPS,
        )
        struct.kv_a, struct.out = self.weight(module.kv_a_proj_with_mqa.weight), self.weight(module.o_proj.weight)
        struct.up_key = self._weight(up[:, : module.nope].transpose(1, 2).contiguous())
        struct.up_value = self._weight(up[:, module.nope :].contiguous())
        struct.kv_a_norm = self.vector(module.kv_a_layernorm.weight)
        if module.q_lora_rank is None:
            struct.q = self.weight(module.q_proj.weight)
        else:
            struct.q_a, struct.q = self.weight(module.q_a_proj.weight), self.weight(module.q_b_proj.weight)
            struct.q_a_norm = self.vector(module.q_a_layernorm.weight)
        return struct

    def _swiglu(self, module: SwiGLU) -> SwiGLUStruct:
        layers = (module.gate_proj, module.up_proj, module.down_proj)
        return SwiGLUStruct(*(self.weight(layer.weight) for layer in layers))

    def _moe(self, module: MoE) -> MoEStruct:
        gate = module.gate
        struct = MoEStruct(
            experts=gate.experts,
            top_k=gate.top_k,
            groups=gate.groups,
            top_groups=gate.top_groups,
            ff=module.experts.down_proj.shape[-1],
            normalise=gate.normalise,
            scale=gate.scale,
        )
        struct.router, struct.bias = self.vector(gate.weight), self.vector(gate.e_score_correction_bias.float())
        struct.gate_up = self.weight(module.experts.gate_up_proj.unflatten(1, (2, -1)).flatten(0, 1))
        struct.down = self.weight(module.experts.down_proj)
        return struct


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's values lie."""
    return None if tensor is None else tensor.data_ptr()


def supported(model: nn.Module) -> str | None:
    """Why the C++ step cannot run this model; None when it can."""
    weights = list(model.parameters())
    if any(weight.device.type != "cpu" for weight in weights):
        return "the model is not on the processor"
    if any(weight.dtype != torch.float32 for weight in weights):
        return "the weights are not float32"
    return None
