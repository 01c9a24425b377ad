"""Floating-point operations of one training token, from a model's own matrices.

Counted as the papers do: 2 a multiply-add, a backward costs two forwards, causal attention sees half the row, and of
E routed experts k run. Embedding look-ups, norms and softmax are left out.
"""

from mtp.model import MTPModel


def training_flops_per_token(model: MTPModel, seq_len: int) -> float:
    """FLOPs of forward and backward for one token of a row of `seq_len`, all horizons included."""
    config = model.config
    modules = config.n_future - 1
    runs = modules if config.prediction.share_modules and config.prediction.kind == "sequential" else 1
    multiply_adds = _active_weights(model.model.layers, model) + runs * _active_weights(model.prediction, model)
    head = config.vocab_size * config.hidden_size
    multiply_adds += head * sum(weight is model.lm_head.weight for weight in model.heads())
    multiply_adds += _attention_blocks(model) * _attention(model, seq_len)
    return 3.0 * 2.0 * multiply_adds


def _active_weights(part: object, model: MTPModel) -> float:
    """Elements of the matrices that one token meets in `part`; of the routed experts only its k."""
    config = model.config
    share = config.num_experts_per_tok / max(config.n_routed_experts, 1)
    return sum(
        parameter.numel() * (share if ".experts." in name else 1.0)
        for name, parameter in part.named_parameters()  # type: ignore[attr-defined]
        if parameter.ndim >= 2
    )


def _attention_blocks(model: MTPModel) -> int:
    """Attention layers that a token passes, those of the prediction modules included."""
    prediction = model.config.prediction
    extra = {
        "none": 0,
        "sequential": prediction.n_future - 1,
        "independent": prediction.n_future - 1,
        "parallel": prediction.depth,
    }[prediction.kind]
    return model.config.num_hidden_layers + extra


def _attention(model: MTPModel, seq_len: int) -> float:
    """Multiply-adds of one token's scores and weighted values in one layer."""
    config = model.config
    width = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    return config.num_attention_heads * width * seq_len / 2
