import pytest
import torch

from mtp.decode import EngineOptions, Sampling, Speculation, generate
from mtp.model import MTPModel
from tests.decode.reference import greedy, speculative_greedy
from tests.decode.tiny import KINDS, random_prompts, tiny_config, tiny_model

WITH_MODULES = [kind for kind in KINDS if kind != "none"]


@pytest.mark.parametrize("kind", KINDS)
def test_standard_decoding_equals_full_recomputation(kind):
    model, prompts = tiny_model(kind), random_prompts(8, seed=1)
    found = generate(model, prompts, Sampling(max_tokens=20), Speculation(decoder="standard"))
    assert [generation.tokens for generation in found] == [greedy(model, prompt, 20) for prompt in prompts]


@pytest.mark.parametrize("batch", [1, 3, 8, 32])
@pytest.mark.parametrize("kind", WITH_MODULES)
def test_greedy_speculation_equals_standard_decoding(kind, batch):
    model, prompts = tiny_model(kind), random_prompts(max(batch, 6), seed=batch)
    sampling, options = Sampling(max_tokens=40), EngineOptions(max_batch_size=batch)
    standard = generate(model, prompts, sampling, Speculation(decoder="standard"), options=options)
    drafted = generate(model, prompts, sampling, Speculation(decoder="mtp"), options=options)
    assert [one.tokens for one in drafted] == [one.tokens for one in standard]
    accepted = sum(sum(one.stats.accepted_per_position) for one in drafted)
    tried = sum(sum(one.stats.drafted_per_position) for one in drafted)
    assert 0.05 < accepted / tried < 0.95, "the comparison needs drafts that are sometimes right, sometimes wrong"


@pytest.mark.parametrize("kind", WITH_MODULES)
def test_drafts_and_acceptance_equal_those_of_full_recomputation(kind):
    model, prompts = tiny_model(kind), random_prompts(3, seed=3, longest=20)
    most = model.config.n_future - 1
    found = generate(model, prompts, Sampling(max_tokens=24), Speculation(num_draft_tokens=most))
    for prompt, generation in zip(prompts, found, strict=True):
        assert (generation.tokens, generation.origins) == speculative_greedy(model, prompt, 24, most)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("kind", ["sequential", "shared", "independent"])
def test_fewer_drafts_than_modules_are_those_of_the_first_modules(kind, k):
    model, prompts = tiny_model(kind), random_prompts(4, seed=4, longest=12)
    found = generate(model, prompts, Sampling(max_tokens=20), Speculation(num_draft_tokens=k))
    for prompt, generation in zip(prompts, found, strict=True):
        assert (generation.tokens, generation.origins) == speculative_greedy(model, prompt, 20, k)


@pytest.mark.parametrize("kind", ["sequential", "independent"])
@pytest.mark.parametrize("options", [{"max_batch_tokens": 7}, {"block_size": 1}, {"block_size": 3}])
def test_chunked_prefill_and_block_size_change_nothing(kind, options):
    model, prompts = tiny_model(kind), random_prompts(10, seed=5)
    sampling = Sampling(max_tokens=24)
    plain = generate(model, prompts, sampling)
    other = generate(model, prompts, sampling, options=EngineOptions(**options))
    assert [(one.tokens, one.origins) for one in other] == [(one.tokens, one.origins) for one in plain]


@pytest.mark.parametrize("change", [{"q_lora_rank": 24}, {"n_routed_experts": 0}, {"tie_word_embeddings": True}])
def test_random_models_of_other_shapes_decode_alike(change):
    torch.manual_seed(3)
    model = MTPModel(tiny_config(KINDS["sequential"], initializer_range=0.4, **change)).eval()
    prompts = random_prompts(6, seed=6)
    standard = generate(model, prompts, Sampling(max_tokens=24), Speculation(decoder="standard"))
    drafted = generate(model, prompts, Sampling(max_tokens=24), Speculation(decoder="mtp"))
    assert [one.tokens for one in drafted] == [one.tokens for one in standard]
    assert standard[0].tokens == greedy(model, prompts[0], 24)


@pytest.mark.parametrize("kind", ["none", "sequential"])
def test_prompt_lookup_equals_standard_decoding(kind):
    model = tiny_model(kind)
    prompts = [prompt * 2 for prompt in random_prompts(8, seed=8, longest=12)]
    standard = generate(model, prompts, Sampling(max_tokens=50), Speculation(decoder="standard"))
    copied = generate(model, prompts, Sampling(max_tokens=50), Speculation(decoder="prompt_lookup"))
    assert [one.tokens for one in copied] == [one.tokens for one in standard]
    assert sum(sum(one.stats.accepted_per_position) for one in copied) > 0


def test_a_module_recursed_beyond_the_trained_ones_stays_exact():
    model, prompts = tiny_model("one_module"), random_prompts(6, seed=9)
    standard = generate(model, prompts, Sampling(max_tokens=30), Speculation(decoder="standard"))
    options = EngineOptions(max_draft_tokens=4)
    recursed = generate(model, prompts, Sampling(max_tokens=30), Speculation(num_draft_tokens=4), options=options)
    assert [one.tokens for one in recursed] == [one.tokens for one in standard]
    assert max(origin for one in recursed for origin in one.origins) > 1


def test_parallel_emits_every_draft_unverified():
    model, prompts = tiny_model("parallel_0"), random_prompts(4, seed=10)
    found = generate(model, prompts, Sampling(max_tokens=21), Speculation(decoder="parallel"))
    for generation in found:
        assert generation.origins[1:9] == [1, 2, 3, 0, 1, 2, 3, 0]
    assert [one.tokens for one in found] != [greedy(model, prompt, 21) for prompt in prompts]
