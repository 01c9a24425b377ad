import pytest
import torch

from mtp.config import load_config, preset_path
from mtp.model import MTPModel, flops_per_token, parameter_counts
from tests.model.configurations import KINDS, small


def test_the_published_deepseek_v3_has_its_published_size():
    counts = parameter_counts(load_config(preset_path("deepseek-v3")).model)
    assert counts.main == 671_026_404_352
    assert 36.6e9 < counts.main_active < 37.0e9
    eh_proj = 2 * 7168 * 7168
    assert round((counts.modules - eh_proj) / 1e9, 1) == 11.5
    assert counts.total == counts.main + counts.modules


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_counts_are_those_of_the_real_model(kind, tied):
    config = small(kind, tie_word_embeddings=tied)
    model = MTPModel(config)
    counts = parameter_counts(config)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    assert counts.modules == sum(parameter.numel() for parameter in model.prediction.parameters())
    idle = sum(sum(p.numel() for p in layer.experts.parameters()) * 6 // 8 for layer in model.expert_layers())
    unread = 0 if tied else 96 * 32
    assert counts.main_active + counts.modules_active == counts.total - idle - unread


@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_that_the_operators_do(kind):
    """Counted by torch's own counter on a model whose tokens all pass every expert, attention apart."""
    from torch.utils.flop_counter import FlopCounterMode

    config = small(kind, num_experts_per_tok=8, topk_group=4, moe_intermediate_size=10)
    model, length = MTPModel(config).train(), 16
    tokens = torch.randint(0, 97, (1, length))
    with FlopCounterMode(display=False) as counter:
        hiddens = model(tokens)
        sum((h @ w.T).sum() for h, w in zip(hiddens, model.heads(), strict=True)).backward()
    blocks = config.num_hidden_layers + model.prediction.runs * sum(
        "self_attn.o_proj" in name for name, _ in model.prediction.named_parameters()
    )
    heads, sizes = config.num_attention_heads, 8 + 4 + 8
    # torch counts no in-place products, so of attention's backward it sees one half; a short row is one whole block.
    counted = counter.get_total_flops() - 2 * blocks * 2 * length * length * heads * sizes
    ours = flops_per_token(config, length) * length - 3 * blocks * length * (length + 1) * heads * sizes
    assert ours == pytest.approx(counted, rel=1e-6)
