"""The model's dimensions, in Hugging Face's names for deepseek_v3, and its prediction modules.

Keys of `ModelConfig` that Hugging Face knows have its names and meaning, so that export renames nothing. What it does
not know (the kind of prediction modules, the horizons) lives in `prediction`.
"""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from mtp.config.base import Section

PredictionKind = Literal["none", "sequential", "parallel", "independent"]


class YarnConfig(Section):
    """YaRN context extension (Peng et al. 2023), as DeepSeek-V3's `rope_scaling`."""

    type: Literal["yarn"] = "yarn"
    factor: PositiveFloat = 40.0
    original_max_position_embeddings: PositiveInt = 4096
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


class PredictionConfig(Section):
    """What predicts horizons 2..n_future (DESIGN words: horizon 1 is ordinary next-token prediction)."""

    kind: PredictionKind = "sequential"
    n_future: PositiveInt = 4
    """The largest horizon; `none` means 1."""
    share_modules: bool = False
    """sequential: one module's weights recursed n_future - 1 times."""
    depth: Literal[0, 1, 2, 4] = 1
    """parallel: layers of the shared MTP transformer."""
    tie_heads: bool = False
    """parallel: horizon heads share the output head's weight."""

    @model_validator(mode="after")
    def _horizons_fit_the_kind(self) -> Self:
        if self.kind == "none" and self.n_future != 1:
            raise ValueError(f"kind none predicts one horizon, but n_future is {self.n_future}; set n_future: 1")
        if self.kind != "none" and self.n_future < 2:
            raise ValueError(f"kind {self.kind} needs n_future of at least 2; use kind: none for 1")
        return self


class ModelConfig(Section):
    """A DeepSeek-V3 backbone: MLA, SwiGLU, and DeepSeekMoE after the first dense layers."""

    vocab_size: PositiveInt = 4096
    hidden_size: PositiveInt = 256
    intermediate_size: PositiveInt = 688
    moe_intermediate_size: PositiveInt = 176
    num_hidden_layers: PositiveInt = 4
    num_attention_heads: PositiveInt = 4
    q_lora_rank: PositiveInt | None = None
    kv_lora_rank: PositiveInt = 64
    qk_nope_head_dim: PositiveInt = 32
    qk_rope_head_dim: PositiveInt = 16
    v_head_dim: PositiveInt = 32
    n_routed_experts: int = Field(default=0, ge=0)
    """0 makes every layer dense."""
    n_shared_experts: int = Field(default=1, ge=0)
    num_experts_per_tok: PositiveInt = 2
    n_group: PositiveInt = 1
    topk_group: PositiveInt = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: PositiveFloat = 1.0
    first_k_dense_replace: int = Field(default=1, ge=0)
    rms_norm_eps: PositiveFloat = 1e-6
    rope_theta: PositiveFloat = 10000.0
    rope_scaling: YarnConfig | None = None
    max_position_embeddings: PositiveInt = 4096
    initializer_range: PositiveFloat = 0.02
    embedding_initializer_range: PositiveFloat | None = None
    """Of the embedding alone; unset: initializer_range. Larger (0.5) teaches a small model sooner: a token of 0.02 is
    lost among what the layers add to it (Takase et al. 2023, "Spike No More")."""
    tie_word_embeddings: bool = False
    prediction: PredictionConfig = PredictionConfig()

    @property
    def n_future(self) -> int:
        """The largest horizon predicted."""
        return self.prediction.n_future

    @property
    def num_nextn_predict_layers(self) -> int:
        """Hugging Face's count of sequential modules held in the weights (1 when they are shared)."""
        if self.prediction.kind != "sequential":
            return 0
        return 1 if self.prediction.share_modules else self.n_future - 1

    def is_moe_layer(self, layer: int) -> bool:
        """Whether backbone layer `layer` (from 0; prediction modules continue the count) routes to experts."""
        return self.n_routed_experts > 0 and layer >= self.first_k_dense_replace

    @model_validator(mode="after")
    def _experts_divide_into_groups(self) -> Self:
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim is {self.qk_rope_head_dim}; RoPE rotates pairs, so it must be even")
        if self.tie_word_embeddings and self.embedding_initializer_range is not None:
            raise ValueError("embedding_initializer_range is not for a tied embedding, which is the output head too")
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace is {self.first_k_dense_replace}, more than num_hidden_layers "
                f"({self.num_hidden_layers})"
            )
        if not self.n_routed_experts:
            return self
        if self.n_routed_experts % self.n_group:
            raise ValueError(f"n_routed_experts ({self.n_routed_experts}) does not divide by n_group ({self.n_group})")
        if self.topk_group > self.n_group:
            raise ValueError(f"topk_group ({self.topk_group}) is larger than n_group ({self.n_group})")
        reachable = self.n_routed_experts // self.n_group * self.topk_group
        if self.num_experts_per_tok > reachable:
            raise ValueError(
                f"num_experts_per_tok ({self.num_experts_per_tok}) is larger than the {reachable} experts that "
                f"{self.topk_group} of {self.n_group} groups hold"
            )
        return self
