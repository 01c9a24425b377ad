"""A deployment whose replicas draft with a second, small model."""

import asyncio

import pytest
import torch
from pydantic import ValidationError

from mtp.checkpoint import save_model
from mtp.config import ServeConfig
from mtp.decode import Request, Sampling, Speculation
from mtp.errors import MTPError
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer
from serve.loading import load
from tests.decode.tiny import KINDS, tiny_config, train


def tokens_of(loaded, decoder):
    async def ask():
        wish = Speculation(decoder=decoder)
        request = Request(prompt=[5, 6, 7], sampling=Sampling(max_tokens=20, ignore_eos=True), speculation=wish)
        tokens = []
        async with loaded.engine.submit(request) as outputs:
            async for steps in outputs:
                tokens += [token for step in steps for token in step.tokens]
        return tokens

    return asyncio.run(ask())


def test_replicas_draft_with_the_small_model_and_greedy_outputs_stay_the_same(model_folder, tmp_path):
    tokenizer = Tokenizer.load(model_folder)
    torch.manual_seed(1)
    config = tiny_config(KINDS["none"], vocab_size=tokenizer.vocab_size, num_hidden_layers=1)
    small = save_model(tmp_path / "small", train(MTPModel(config), steps=20), tokenizer)
    loaded = load(str(model_folder), "toy", ServeConfig(decoder="draft_model", draft_model=str(small)))
    assert loaded.decoder == "draft_model"
    drafted = tokens_of(loaded, "draft_model")
    assert [token.id for token in drafted] == [token.id for token in tokens_of(loaded, "standard")]
    assert any(token.origin for token in drafted)


def test_a_draft_model_of_another_vocabulary_is_refused(model_folder, tmp_path):
    other = Tokenizer.train(["a b c d"] * 20, 270)
    model = MTPModel(tiny_config(KINDS["none"], vocab_size=other.vocab_size))
    small = save_model(tmp_path / "small", model, other)
    with pytest.raises(MTPError, match="a draft model needs the same tokenizer"):
        load(str(model_folder), "toy", ServeConfig(draft_model=str(small)))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"decoder": "draft_model"}, "set serve.draft_model"),
        ({"draft_model": "x", "engine": "vllm"}, "draft_model belong to engine native"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        ServeConfig(**settings)
