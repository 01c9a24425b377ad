"""One transformer layer: attention, then a dense or MoE feed-forward, each pre-normed and added to the stream."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtp.config import ModelConfig
from mtp.model.attention import LatentAttention
from mtp.model.decoding import PassInput
from mtp.model.masks import AttentionMask
from mtp.model.mlp import SwiGLU
from mtp.model.moe import MoE
from mtp.model.norm import RMSNorm
from mtp.model.rotary import Rotation


class Block(nn.Module):
    """Layer `layer` of the model; prediction modules continue the count after the backbone's layers."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LatentAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: nn.Module
        if config.is_moe_layer(layer):
            self.mlp = MoE(config)
        else:
            self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)
        self.checkpoint_activations = False

    def forward(self, x: Tensor, rotation: Rotation, mask: AttentionMask | None) -> Tensor:
        """x (B, T, d), rotation (T, rope/2) each, mask of `attention_mask` or None for causal -> (B, T, d)."""
        if self.checkpoint_activations:
            return checkpoint(self._run, x, rotation, mask, use_reentrant=False, context_fn=self._passes)
        return self._run(x, rotation, mask)

    def _run(self, x: Tensor, rotation: Rotation, mask: AttentionMask | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask)
        return x + self.mlp(self.post_attention_layernorm(x))

    def compile_run(self) -> None:
        """Compile the layer but for its experts, whose loads no compiler can foresee, and recomputing activations."""
        if isinstance(self.mlp, MoE):
            self.mlp.forward = torch.compiler.disable(self.mlp.forward)  # type: ignore[method-assign]
        self._run = torch.compile(self._run, dynamic=False)  # type: ignore[method-assign]

    def _passes(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first forward, and around the one in the backward that computes its activations again."""
        return nullcontext(), self._recomputing()

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        setattr(self.mlp, "recomputing", True)  # noqa: B010  (any layer may be in its place)
        try:
            yield
        finally:
            setattr(self.mlp, "recomputing", False)  # noqa: B010

    def decode(self, x: Tensor, rotation: Rotation, pass_input: PassInput, layer: int) -> Tensor:
        """The same for q new tokens (B, q, d) over the cache; `layer` is the cache's layer."""
        x = x + self.self_attn.decode(self.input_layernorm(x), rotation, pass_input, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Blocks(nn.ModuleList):
    """A ModuleList that knows what it holds."""

    def __init__(self, config: ModelConfig, first: int, count: int) -> None:
        super().__init__(Block(config, first + index) for index in range(count))

    def __iter__(self) -> Iterator[Block]:
        return super().__iter__()  # type: ignore[return-value]
