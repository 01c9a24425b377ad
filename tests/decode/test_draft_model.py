import pytest
import torch

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, generate
from mtp.errors import UsageError
from mtp.model import MTPModel
from tests.decode.test_engine import drain
from tests.decode.tiny import random_prompts, tiny_config, tiny_model, train

DRAFTING = Speculation(decoder="draft_model")


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(5)
    return train(MTPModel(tiny_config({"kind": "none", "n_future": 1}, num_hidden_layers=1)), 40)


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_greedy_decoding_with_a_draft_model_equals_standard_decoding(small, batch):
    model, prompts = tiny_model("none"), random_prompts(32, seed=41)
    sampling, options = Sampling(max_tokens=40), EngineOptions(max_batch_size=batch)
    standard = generate(model, prompts, sampling, Speculation(decoder="standard"), options=options)
    drafted = generate(model, prompts, sampling, DRAFTING, options=options, draft_model=small)
    assert [one.tokens for one in drafted] == [one.tokens for one in standard]
    accepted = sum(sum(one.stats.accepted_per_position) for one in drafted)
    tried = sum(sum(one.stats.drafted_per_position) for one in drafted)
    assert 0.2 < accepted / tried < 1
    assert all(one.stats.draft_seconds > 0 for one in drafted)


@pytest.mark.parametrize("batch", [1, 6])
def test_a_model_that_drafts_for_itself_has_every_draft_accepted(batch):
    """So what it cached for accepted drafts, in rows that stop and go, is what it would compute afresh."""
    model, prompts = tiny_model("none"), random_prompts(12, seed=42)
    options = EngineOptions(max_batch_size=batch, block_size=4, cache_blocks=60, max_model_len=90, max_batch_tokens=40)
    engine = Engine(model, draft_model=model, options=options)
    for place, prompt in enumerate(prompts):
        wish = Speculation(decoder="draft_model", num_draft_tokens=place % 5)
        engine.add(Request(prompt=prompt, sampling=Sampling(max_tokens=30), speculation=wish))
    drain(engine)
    assert engine.stats.drafted_per_position == engine.stats.accepted_per_position


def test_preemption_prefix_hits_and_other_decoders_beside_it_change_nothing(small):
    model, start = tiny_model("sequential"), random_prompts(1, seed=43, longest=60)[0]
    prompts = [start[: 5 * i] + tail for i, tail in enumerate(random_prompts(8, seed=44, longest=10))]
    sampling = Sampling(max_tokens=40)
    expected = [generate(model, [prompt], sampling, Speculation(decoder="standard"))[0].tokens for prompt in prompts]
    options = EngineOptions(max_batch_size=6, block_size=4, cache_blocks=40)
    engine = Engine(model, draft_model=small, options=options)
    decoders = ["draft_model", "mtp", "draft_model", "prompt_lookup", "standard"]
    numbers = [
        engine.add(
            Request(prompt=prompt, sampling=sampling, speculation=Speculation(decoder=decoders[place % len(decoders)]))
        )
        for place, prompt in enumerate(prompts * 2)
    ]
    found = drain(engine)
    assert engine.scheduler.preemptions > 0
    assert engine.scheduler.prefix_hits > 0
    assert [found[number] for number in numbers] == expected * 2


def test_a_sequence_that_outgrows_the_draft_model_goes_on_without_drafts():
    torch.manual_seed(6)
    short = MTPModel(tiny_config({"kind": "none", "n_future": 1}, max_position_embeddings=24)).eval()
    model, prompts = tiny_model("none"), [[1, 2, 3], list(range(40))]
    standard = generate(model, prompts, Sampling(max_tokens=40), Speculation(decoder="standard"))
    drafted = generate(model, prompts, Sampling(max_tokens=40), DRAFTING, draft_model=short)
    assert [one.tokens for one in drafted] == [one.tokens for one in standard]


def test_a_draft_model_that_is_missing_or_of_another_vocabulary_is_refused():
    with pytest.raises(UsageError, match="has none"):
        Engine(tiny_model("none")).add(Request(prompt=[1], speculation=DRAFTING))
    other = MTPModel(tiny_config({"kind": "none", "n_future": 1}, vocab_size=50))
    with pytest.raises(UsageError, match="50 ids"):
        Engine(tiny_model("none"), draft_model=other)
