"""Multi-head latent attention (DeepSeek-V2, section 2.1): one computation, two orders.

`forward` is the naive order, for training: latents are expanded to keys and values of every head, and a fused kernel
attends. `decode` is the absorbed order: W_UK goes into the query and W_UV into the output, so that attention runs on
the cached latents themselves and nothing per head is ever stored. Both give the same numbers (tested).

Shapes: B rows, T tokens, H heads, d hidden_size, r kv_lora_rank, n nope, p rope, v value size of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from mtp.config import ModelConfig
from mtp.model import blockwise_attention
from mtp.model.decoding import PassInput
from mtp.model.masks import AttentionMask, flex_attend, sdpa_attend
from mtp.model.norm import RMSNorm
from mtp.model.rotary import Rotation, rotate, softmax_scale

LATENT_NORM_EPS = 1e-6
"""DeepSeek's norms of the latents do not follow rms_norm_eps."""


class LatentAttention(nn.Module):
    """MLA with Hugging Face's parameter names; `q_lora_rank: null` projects queries directly."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, heads = config.hidden_size, config.num_attention_heads
        self.heads = heads
        self.nope, self.rope, self.v = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.rank = config.kv_lora_rank
        self.scale = softmax_scale(config)
        self.q_lora_rank = config.q_lora_rank
        width = heads * (self.nope + self.rope)
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(d, width, bias=False)
        else:
            self.q_a_proj = nn.Linear(d, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_NORM_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, width, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(d, self.rank + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.rank, LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(self.rank, heads * (self.nope + self.v), bias=False)
        self.o_proj = nn.Linear(heads * self.v, d, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, mask: AttentionMask | None) -> Tensor:
        """Causal attention over whole rows.

        Args:
            x: (B, T, d), already normed.
            rotation: cos and sin, (T, p/2) each.
            mask: of `mtp.model.masks.attention_mask`; None = causal.

        Returns:
            (B, T, d).
        """
        q_nope, q_rope = self._queries(x, rotation)
        latent, k_rope = self._latents(x, rotation)
        k_nope, value = self.kv_b_proj(latent).unflatten(-1, (self.heads, -1)).split((self.nope, self.v), dim=-1)
        query = torch.cat((q_nope, q_rope), dim=-1).transpose(1, 2)
        key = torch.cat((k_nope, k_rope.unsqueeze(2).expand(-1, -1, self.heads, -1)), dim=-1).transpose(1, 2)
        out = self._attend(query, key, value.transpose(1, 2), mask)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def decode(self, x: Tensor, rotation: Rotation, pass_input: PassInput, layer: int) -> Tensor:
        """Attention of q new tokens over the latent cache, absorbed.

        score_ij = (W_UK^T q_nope_i) . c_j + q_rope_i . k_rope_j ;  out_i = W_UV (sum_j softmax(score)_ij c_j)

        Args:
            x: (B, q, d), already normed.
            rotation: (B, q, p/2) each.
            pass_input: the cache and what each query may see in it.
            layer: this layer's index in the cache.

        Returns:
            (B, q, d).
        """
        batch, new = x.shape[:2]
        q_nope, q_rope = self._queries(x, rotation)
        latent, k_rope = pass_input.cache.append(layer, *self._latents(x, rotation))
        w_uk, w_uv = self.kv_b_proj.weight.unflatten(0, (self.heads, -1)).split((self.nope, self.v), dim=1)
        q_latent = torch.bmm(q_nope.flatten(0, 1).transpose(0, 1), w_uk)  # (H, B q, r)
        q_latent = q_latent.view(self.heads, batch, new, self.rank).permute(1, 2, 0, 3)
        scores = torch.bmm(q_latent.reshape(batch, -1, self.rank), latent.transpose(1, 2))  # (B, q H, S)
        scores = torch.baddbmm(scores, q_rope.reshape(batch, -1, self.rope), k_rope.transpose(1, 2))
        scores = (scores * self.scale).view(batch, new, self.heads, -1)
        hidden = ~pass_input.mask.unsqueeze(2)
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1, dtype=torch.float32)
        context = torch.bmm(weights.to(x.dtype).flatten(1, 2), latent)  # (B, q H, r)
        context = context.view(batch * new, self.heads, self.rank).transpose(0, 1)
        out = torch.bmm(context, w_uv.transpose(1, 2))  # (H, B q, v)
        return self.o_proj(out.transpose(0, 1).reshape(batch, new, -1))

    def _queries(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Queries without and with positions: (B, T, H, n) and (B, T, H, p)."""
        q = self.q_proj(x) if self.q_lora_rank is None else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q_nope, q_rope = q.unflatten(-1, (self.heads, -1)).split((self.nope, self.rope), dim=-1)
        return q_nope, rotate(q_rope, rotation)

    def _latents(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """What the cache keeps: the normalised latent (B, T, r) and the rotated shared key (B, T, p)."""
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((self.rank, self.rope), dim=-1)
        return self.kv_a_layernorm(latent), rotate(k_rope.unsqueeze(2), rotation).squeeze(2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None) -> Tensor:
        """(B, H, T, .) -> (B, H, T, v), by the kernel that is fastest on the device."""
        if isinstance(mask, BlockMask):
            return flex_attend(query, key, value, mask, self.scale)
        if blockwise_attention.fits(query):
            return blockwise_attention.blockwise_attention(query, key, value, mask, self.scale)
        return sdpa_attend(query, key, value, mask, self.scale)
