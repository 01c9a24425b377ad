import logging

import numpy as np
import pytest
import torch

from mtp.decode import Engine, EngineOptions, Sampling, Speculation, generate, network_choice
from mtp.decode.native import build
from mtp.decode.native.int8 import dequantised, quantised
from mtp.decode.native.network import NativeNetwork
from mtp.decode.network import TorchNetwork, Window
from mtp.errors import MTPError
from mtp.model import MTPModel
from tests.decode.tiny import KINDS, random_prompts, tiny_config, tiny_model

GROUPED = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "q_lora_rank": 12}
YARN = {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32}, "kv_lora_rank": 19, "v_head_dim": 7}


@torch.inference_mode()
def first_logits(network, tokens):
    rows = len(tokens)
    window = Window(np.arange(rows), np.zeros(rows, dtype=np.int64), np.full(rows, tokens.shape[1]))
    return network.logits(network.backbone(tokens, window))


def engine_with_blocks(model, rows, **options):
    """An engine whose rows own blocks, as if requests ran there."""
    engine = Engine(model, options=EngineOptions(max_batch_size=rows, **options))
    for row in range(rows):
        engine._rows.tables[row, :4] = engine._pool.allocate(4)
    return engine


@pytest.mark.parametrize("change", [{}, GROUPED, YARN, {"n_routed_experts": 0}])
@torch.inference_mode()
def test_the_compiled_step_computes_what_pytorch_computes(change):
    torch.manual_seed(4)
    model = MTPModel(tiny_config(KINDS["sequential"], initializer_range=0.3, **change)).eval()
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):
            module.e_score_correction_bias.normal_(std=0.1)
    tokens = torch.randint(48, (3, 40))
    engine = engine_with_blocks(model, 3)
    assert isinstance(engine._network, NativeNetwork)
    found = first_logits(engine._network, tokens)
    expected = first_logits(TorchNetwork(model, engine._rows), tokens)
    assert torch.allclose(found, expected, atol=2e-4, rtol=1e-4)


def test_logits_do_not_depend_on_batchmates_or_threads_to_the_last_bit():
    model, tokens = tiny_model("sequential"), torch.randint(48, (7, 21), generator=torch.Generator().manual_seed(1))
    together = first_logits(engine_with_blocks(model, 7)._network, tokens)
    threads = torch.get_num_threads()
    for row in range(7):
        torch.set_num_threads(1 + row % 2)
        alone = first_logits(engine_with_blocks(model, 1)._network, tokens[row : row + 1])
        torch.set_num_threads(threads)
        assert torch.equal(alone[0], together[row])


def test_int8_weights_are_within_half_a_step_and_decode():
    weight = torch.randn(40, 24)
    values, scales = quantised(weight)
    assert ((dequantised(values, scales) - weight).abs() <= scales.unsqueeze(-1) * 0.5001).all()
    model, prompts = tiny_model("sequential"), random_prompts(4, seed=41)
    options = EngineOptions(quantization="int8")
    standard = generate(model, prompts, Sampling(max_tokens=20), Speculation(decoder="standard"), options=options)
    drafted = generate(model, prompts, Sampling(max_tokens=20), Speculation(), options=options)
    assert [one.tokens for one in drafted] == [one.tokens for one in standard]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_int8_drafts_change_no_token(kind):
    model, prompts = tiny_model(kind), random_prompts(4, seed=43)
    options = EngineOptions(quantization="auto")
    for sampling in (Sampling(max_tokens=20), Sampling(max_tokens=20, temperature=1.0, seed=5)):
        standard = generate(model, prompts, sampling, Speculation(decoder="standard"))
        drafted = generate(model, prompts, sampling, Speculation(), options=options)
        assert [one.tokens for one in drafted] == [one.tokens for one in standard]
    assert sum(one.stats.drafted_per_position[0] for one in drafted)
    network = Engine(model, options=options)._network
    assert network._draft_layout is not network._layout


def test_without_a_compiler_pytorch_decodes_the_same_and_one_note_says_so(monkeypatch, caplog):
    model, prompts = tiny_model("sequential"), random_prompts(4, seed=42)
    expected = generate(model, prompts, Sampling(max_tokens=20))
    monkeypatch.setenv("CXX", "/no/such/compiler")
    build.library.cache_clear()
    network_choice._note.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="mtp.decode"):
            found = [generate(model, prompts, Sampling(max_tokens=20)) for _ in range(2)][-1]
        with pytest.raises(MTPError, match="no C\\+\\+ compiler"):
            Engine(model, options=EngineOptions(compiled_step="on"))
        assert isinstance(Engine(model, options=EngineOptions(quantization="auto"))._network, TorchNetwork)
        for quantization in ("int8", "drafts"):
            with pytest.raises(MTPError, match=quantization):
                Engine(model, options=EngineOptions(quantization=quantization))
    finally:
        build.library.cache_clear()
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert sum("without the compiled step" in record.getMessage() for record in caplog.records) == 1
