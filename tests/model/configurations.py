"""Random small configurations of every shape that the architecture has."""

from hypothesis import strategies as st

from mtp.config import ModelConfig, PredictionConfig
from mtp.config.model import YarnConfig

KINDS = {
    "none": PredictionConfig(kind="none", n_future=1),
    "sequential": PredictionConfig(kind="sequential", n_future=3),
    "shared": PredictionConfig(kind="sequential", n_future=4, share_modules=True),
    "independent": PredictionConfig(kind="independent", n_future=3),
    "parallel0": PredictionConfig(kind="parallel", n_future=3, depth=0),
    "parallel1": PredictionConfig(kind="parallel", n_future=3, depth=1, tie_heads=True),
    "parallel2": PredictionConfig(kind="parallel", n_future=3, depth=2),
}

YARN = YarnConfig(factor=4.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=0.7)


def small(kind: str = "sequential", **changes: object) -> ModelConfig:
    """A model of some thousand parameters with everything in it."""
    keys: dict[str, object] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "q_lora_rank": 12,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 8,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "prediction": KINDS[kind],
    }
    return ModelConfig.model_validate({**keys, **changes})


@st.composite
def configurations(draw: st.DrawFn, kind: str = "none") -> ModelConfig:
    """Everything of the backbone that can vary."""
    layers = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2, 4]))
    top_groups = draw(st.integers(1, groups))
    return small(
        kind,
        num_hidden_layers=layers,
        first_k_dense_replace=draw(st.integers(0, layers)),
        num_attention_heads=draw(st.sampled_from([1, 2, 3])),
        q_lora_rank=draw(st.sampled_from([None, 12])),
        qk_nope_head_dim=draw(st.sampled_from([8, 12])),
        qk_rope_head_dim=draw(st.sampled_from([4, 8])),
        v_head_dim=draw(st.sampled_from([6, 8, 20])),
        moe_intermediate_size=draw(st.sampled_from([16, 10])),
        n_group=groups,
        topk_group=top_groups,
        num_experts_per_tok=draw(st.integers(1, 8 // groups * top_groups)),
        n_shared_experts=draw(st.sampled_from([1, 2])),
        norm_topk_prob=draw(st.booleans()),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        rope_theta=draw(st.sampled_from([100.0, 10000.0])),
        rope_scaling=draw(st.sampled_from([None, YARN, YARN.model_copy(update={"mscale_all_dim": 1.0})])),
        tie_word_embeddings=draw(st.booleans()),
    )
