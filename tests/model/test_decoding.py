import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtp.model import MTPModel
from tests.model.configurations import KINDS, YARN, configurations, small
from tests.model.growing_cache import decode_in_passes

TOKENS = torch.randint(0, 97, (2, 14), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [[14], [5, 6, 9, 14], list(range(1, 15))])
def test_absorbed_decoding_equals_the_naive_forward_however_it_is_cut_into_passes(kind, cuts):
    torch.manual_seed(0)
    model = MTPModel(small(kind, rope_scaling=YARN)).eval()
    with torch.no_grad():
        naive = model(TOKENS)
    absorbed, _ = decode_in_passes(model, TOKENS, cuts)
    assert len(absorbed) == len(naive) == model.config.n_future
    for horizon, (slow, fast) in enumerate(zip(naive, absorbed, strict=True), start=1):
        torch.testing.assert_close(model.logits(fast, horizon), model.logits(slow, horizon), atol=1e-4, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(config=configurations("sequential"), seed=st.integers(0, 999))
def test_absorbed_decoding_equals_the_naive_forward_for_any_configuration(config, seed):
    torch.manual_seed(seed)
    model = MTPModel(config).eval()
    absorbed, _ = decode_in_passes(model, TOKENS, [6, 7, 14])
    with torch.no_grad():
        naive = model(TOKENS)
    for slow, fast in zip(naive, absorbed, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_fills_exactly_the_cache_layers_that_the_model_announces(kind):
    model = MTPModel(small(kind)).eval()
    _, cache = decode_in_passes(model, TOKENS, [14])
    assert sorted(cache.latents) == list(range(model.cache_layers))
    assert {latent.shape[-1] for latent in cache.latents.values()} == {model.config.kv_lora_rank}
    assert {key.shape[-1] for key in cache.rope_keys.values()} == {model.config.qk_rope_head_dim}


def test_a_query_that_may_see_nothing_gives_finite_states():
    from mtp.model import PassInput
    from tests.model.growing_cache import GrowingCache

    model = MTPModel(small()).eval()
    nothing = PassInput(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, 1, dtype=torch.bool), GrowingCache())
    assert model.decode_backbone(TOKENS[:, :1], nothing).isfinite().all()
