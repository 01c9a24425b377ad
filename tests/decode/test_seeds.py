"""What a seed promises: the same tokens with any decoder, any number of drafts, any batchmates and any interruption."""

import random

import pytest

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, generate
from tests.decode.test_draft_model import small  # noqa: F401 (a fixture)
from tests.decode.test_engine import drain
from tests.decode.tiny import KINDS, random_prompts, tiny_model

WISHES = [{}, {"temperature": 0.6, "top_k": 9}, {"top_p": 0.8, "presence_penalty": 0.7, "repetition_penalty": 1.2}]


def seeded(place, **changes):
    return Sampling(**({"max_tokens": 16, "temperature": 1.0, "seed": place} | WISHES[place % len(WISHES)] | changes))


@pytest.fixture(scope="module")
def expected():
    """Each request alone, without drafts."""
    model, prompts = tiny_model("sequential"), random_prompts(24, seed=51)
    standard = Speculation(decoder="standard")
    found = [generate(model, [prompt], seeded(i), standard)[0].tokens for i, prompt in enumerate(prompts)]
    return prompts, found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_any_number_of_drafts_gives_the_tokens_of_none(kind):
    model, prompts = tiny_model(kind), random_prompts(8, seed=50)
    runs = []
    for drafts in range(model.config.n_future):
        decoder = "mtp" if drafts else "standard"
        engine = Engine(model)
        for i, prompt in enumerate(prompts):
            wish = Speculation(decoder=decoder, num_draft_tokens=drafts)
            engine.add(Request(prompt=prompt, sampling=seeded(i), speculation=wish))
        runs.append(drain(engine))
        assert not drafts or sum(engine.stats.accepted_per_position) > 0
    assert all(run == runs[0] for run in runs)


@pytest.mark.long
def test_200_random_batch_compositions_change_nothing(expected, small):  # noqa: F811
    """Batchmates, batch size, chunks, blocks, memory (so preemption and prefix hits), decoders, cancellations."""
    prompts, found = expected
    model, shuffle, preemptions, hits = tiny_model("sequential"), random.Random(0), 0, 0
    for _ in range(200):
        chosen = shuffle.sample(range(24), shuffle.randint(1, 6))
        options = EngineOptions(
            max_batch_size=shuffle.randint(1, 6),
            max_batch_tokens=shuffle.choice([12, 40, 512]),
            block_size=shuffle.choice([3, 16]),
            cache_blocks=shuffle.choice([40, 100]) if chosen else None,
            max_model_len=64,
        )
        engine = Engine(model, options=options, draft_model=small)
        numbers = {}
        for i in chosen:
            decoder = shuffle.choice(["standard", "mtp", "mtp", "prompt_lookup", "draft_model"])
            drafts = None if decoder == "standard" else shuffle.choice([None, 0, 1, 2, 3])
            wish = Speculation(decoder=decoder, num_draft_tokens=drafts)
            request = Request(prompt=prompts[i], sampling=seeded(i), speculation=wish, priority=shuffle.randint(0, 2))
            numbers[engine.add(request)] = i
        bystander = engine.add(Request(prompt=prompts[chosen[0]], sampling=Sampling(max_tokens=20, temperature=1.0)))
        outputs = {}
        for _ in range(shuffle.randint(0, 4)):
            for output in engine.step():
                outputs.setdefault(output.request_id, []).extend(token.id for token in output.tokens)
        engine.cancel(bystander)
        drain(engine, outputs)
        preemptions += engine.scheduler.preemptions
        hits += engine.scheduler.prefix_hits
        assert engine.cache_use == 0
        assert {i: outputs[number] for number, i in numbers.items()} == {i: found[i] for i in chosen}
    assert preemptions > 0
    assert hits > 0


def test_an_output_that_another_engine_began_goes_on_with_the_same_tokens(expected):
    prompts, found = expected
    engine = Engine(tiny_model("sequential"))
    numbers = [
        engine.add(Request(prompt=prompt, sampling=seeded(i), emitted=found[i][: i % 15]))
        for i, prompt in enumerate(prompts)
    ]
    outputs = drain(engine)
    assert [outputs[number] for number in numbers] == [tokens[i % 15 :] for i, tokens in enumerate(found)]
