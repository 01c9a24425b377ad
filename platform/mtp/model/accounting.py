"""Counts of parameters and of floating-point operations, read off the model's own modules on the meta device.

For MFU in training, for `mtp plan` and `mtp bench`. Allocates no weights: 671B parameters are counted in a second.
"""

from dataclasses import dataclass

import torch
from torch import nn

from mtp.config import ModelConfig
from mtp.model.block import Block
from mtp.model.experts import Experts
from mtp.model.mtp_model import MTPModel


@dataclass(frozen=True)
class ParameterCounts:
    """Stored parameters, and those that one token reads ("active").

    Of the routed experts num_experts_per_tok are active, of the embedding one row, of all else everything.
    DeepSeek-V3: 671.03B and 36.63B (37.55B with the whole embedding; its authors publish 671B and 37B); its module
    has 11.61B of its own, 11.51B (published as 11.5B) without the 0.10B of eh_proj.
    """

    main: int
    """Embedding, backbone and output head: the model without its prediction modules."""
    main_active: int
    modules: int
    """The prediction modules' own; what they share with the main model is not counted again."""
    modules_active: int
    embedding: int
    """The token embedding alone (an output head that is not tied is as large again)."""
    routed_experts: int
    """All routed experts of main and modules: what expert parallelism spreads."""

    @property
    def total(self) -> int:
        """Everything stored."""
        return self.main + self.modules


def parameter_counts(config: ModelConfig) -> ParameterCounts:
    """Count the parameters of the model that `config` describes."""
    model = model_on_meta(config)
    modules = _parameters(model.prediction)
    main = _parameters(model) - modules
    embedding = model.model.embed_tokens.weight
    unread = 0 if config.tie_word_embeddings else embedding.numel() - embedding.shape[1]
    return ParameterCounts(
        main=main,
        main_active=main - unread - _idle_parameters(model.model, config),
        modules=modules,
        modules_active=modules - _idle_parameters(model.prediction, config),
        embedding=embedding.numel(),
        routed_experts=_routed_parameters(model),
    )


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Floating-point operations that training spends on one token of a row of `seq_len`, forward and backward.

        forward  = 2 P + sum over attention layers of 2 L H (nope + rope + v),     L = (seq_len + 1) / 2
        training = 3 forward

    P counts the weights of the matrices that a token is multiplied with: of the routed experts
    num_experts_per_tok, the output head once a horizon, a recursed module as often as it runs, the embedding not at
    all (a lookup). L is the mean number of keys that a causal query sees when the row is one document. Operations
    repeated for activation checkpointing do not count: MFU credits useful work only.
    """
    model = model_on_meta(config)
    runs = model.prediction.runs
    shared_heads = sum(head is model.lm_head.weight for head in model.heads())
    weights = _matrix_weights(model.model, config) + shared_heads * model.lm_head.weight.numel()
    weights += runs * _matrix_weights(model.prediction, config)
    layers = _blocks(model.model) + runs * _blocks(model.prediction)
    head_sizes = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    attention = layers * (seq_len + 1) * config.num_attention_heads * head_sizes
    return 3.0 * (2 * weights + attention)


def model_on_meta(config: ModelConfig) -> MTPModel:
    """The model with shapes but no storage."""
    with torch.device("meta"):
        return MTPModel(config)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _routed_parameters(module: nn.Module) -> int:
    return sum(_parameters(child) for child in module.modules() if isinstance(child, Experts))


def _idle_parameters(module: nn.Module, config: ModelConfig) -> int:
    """Routed experts' parameters that a token does not pass."""
    if not config.n_routed_experts:
        return 0
    return (
        _routed_parameters(module) * (config.n_routed_experts - config.num_experts_per_tok) // config.n_routed_experts
    )


def _matrix_weights(module: nn.Module, config: ModelConfig) -> int:
    """Weights that a token is multiplied with: matrices, without embeddings and idle experts."""
    lookups = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    matrices = [p for p in module.parameters() if p.dim() > 1 and id(p) not in lookups]
    return sum(matrix.numel() for matrix in matrices) - _idle_parameters(module, config)


def _blocks(module: nn.Module) -> int:
    return sum(isinstance(child, Block) for child in module.modules())
