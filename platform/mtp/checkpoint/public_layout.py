"""The public DeepSeek-V3 layout: which tensors of a published checkpoint make up each tensor of ours.

Two things differ from our names (Hugging Face's in memory). Experts are published one by one, and fused with us:

    model.layers.3.mlp.experts.gate_up_proj [e, :ff]   <->   model.layers.3.mlp.experts.e.gate_proj.weight

and sequential prediction module k is published as layer N+k-1, with copies of the embedding and the head that it
shares with the main model:

    prediction.modules_by_depth.0.enorm.weight         <->   model.layers.N.enorm.weight
    prediction.modules_by_depth.0.block.self_attn...   <->   model.layers.N.self_attn...
    prediction.modules_by_depth.0.norm.weight          <->   model.layers.N.shared_head.norm.weight
"""

import re
from dataclasses import dataclass

from mtp.config import ModelConfig

_MODULE = re.compile(r"prediction\.modules_by_depth\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)")


@dataclass(frozen=True)
class Part:
    """One published tensor, and where it lies in ours."""

    public: str
    index: tuple[int | slice, ...] = ()
    """Of our tensor; () is the whole."""


def parts_of(name: str, config: ModelConfig) -> list[Part]:
    """The published tensors that our tensor `name` is made of."""
    public = _public_name(name, config)
    experts = _EXPERTS.fullmatch(public)
    if experts is None:
        return [Part(public)]
    prefix, kind = experts.groups()
    ff, count = config.moe_intermediate_size, config.n_routed_experts
    if kind == "down_proj":
        return [Part(f"{prefix}.{e}.down_proj.weight", (e,)) for e in range(count)]
    halves = (("gate_proj", slice(0, ff)), ("up_proj", slice(ff, 2 * ff)))
    return [Part(f"{prefix}.{e}.{half}.weight", (e, rows)) for e in range(count) for half, rows in halves]


def duplicates(config: ModelConfig) -> dict[str, str]:
    """Published copies in each module's layer -> our tensor that they repeat."""
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    copies = {}
    for module in range(config.num_nextn_predict_layers):
        layer = f"model.layers.{config.num_hidden_layers + module}"
        copies[f"{layer}.embed_tokens.weight"] = "model.embed_tokens.weight"
        copies[f"{layer}.shared_head.head.weight"] = head
    return copies


def reason_not_to_fit(config: ModelConfig) -> str | None:
    """Why the prediction modules cannot be published in this layout, or None when they can."""
    kind = config.prediction.kind
    if kind in ("parallel", "independent"):
        return f"{kind} prediction modules have no place in the DeepSeek-V3 layout, which knows sequential ones only"
    if kind == "sequential" and not config.n_routed_experts:
        return "loaders of the DeepSeek-V3 layout build prediction modules with experts, and this model has none"
    return None


def _public_name(name: str, config: ModelConfig) -> str:
    module = _MODULE.fullmatch(name)
    if module is None:
        return name
    depth, rest = module.groups()
    rest = "shared_head.norm.weight" if rest == "norm.weight" else rest.removeprefix("block.")
    return f"model.layers.{config.num_hidden_layers + int(depth)}.{rest}"
