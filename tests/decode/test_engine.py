import copy
import random

import pytest
import torch

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, generate
from mtp.errors import UsageError
from tests.decode.tiny import VOCAB, random_prompts, tiny_model


def drain(engine, found=None):
    found = {} if found is None else found
    while engine.has_work:
        for output in engine.step():
            found.setdefault(output.request_id, []).extend(token.id for token in output.tokens)
    return found


def alone(model, prompts, sampling):
    return [generate(model, [prompt], sampling)[0].tokens for prompt in prompts]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_does_not_depend_on_its_batchmates(temperature):
    model, prompts = tiny_model("sequential"), random_prompts(8, seed=21)
    sampling = Sampling(max_tokens=16, temperature=temperature, seed=11)
    expected = alone(model, prompts, sampling)
    shuffle = random.Random(0)
    for _ in range(10):
        chosen = shuffle.sample(range(8), shuffle.randint(2, 8))
        options = EngineOptions(max_batch_size=shuffle.randint(1, 8), max_batch_tokens=shuffle.choice([16, 512]))
        found = generate(model, [prompts[i] for i in chosen], sampling, options=options)
        assert [one.tokens for one in found] == [expected[i] for i in chosen]


def test_requests_join_and_leave_at_every_step_and_cancelling_frees_their_memory():
    model, prompts = tiny_model("sequential"), random_prompts(12, seed=22)
    expected = alone(model, prompts, Sampling(max_tokens=20))
    engine = Engine(model, options=EngineOptions(max_batch_size=4))
    found, numbers, cancelled = {}, {}, set()
    for step in range(200):
        if step % 2 == 0 and len(numbers) < 12:
            prompt = prompts[len(numbers)]
            numbers[engine.add(Request(prompt=prompt, sampling=Sampling(max_tokens=20)))] = len(numbers)
        if step == 9:
            cancelled = {min(number for number in numbers if number not in found or len(found[number]) < 20)}
            assert engine.cancel(*cancelled)
        for output in engine.step():
            found.setdefault(output.request_id, []).extend(token.id for token in output.tokens)
    assert not engine.has_work
    assert engine.cache_use == 0
    for number, place in numbers.items():
        if number not in cancelled:
            assert found[number] == expected[place]


@pytest.mark.parametrize("kind", ["sequential", "independent"])
def test_preemption_by_recomputation_changes_nothing(kind):
    model, prompts = tiny_model(kind), random_prompts(6, seed=23, longest=20)
    expected = alone(model, prompts, Sampling(max_tokens=40))
    engine = Engine(model, options=EngineOptions(max_batch_size=6, block_size=4, cache_blocks=20))
    numbers = [engine.add(Request(prompt=prompt, sampling=Sampling(max_tokens=40))) for prompt in prompts]
    found = drain(engine)
    assert engine.scheduler.preemptions > 0
    assert [found[number] for number in numbers] == expected
    assert engine.cache_use == 0


@pytest.mark.parametrize("kind", ["sequential", "shared", "parallel_2", "independent"])
def test_a_prefix_hit_gives_the_very_same_tokens_and_drafts_as_a_miss(kind):
    model = tiny_model(kind)
    start = random_prompts(1, seed=24, longest=60)[0] * 3
    prompts = [start[:50] + tail for tail in random_prompts(5, seed=25, longest=6)]
    sampling, options = Sampling(max_tokens=16), EngineOptions(max_batch_size=1, block_size=4)
    cold = [generate(model, [prompt], sampling, options=options)[0] for prompt in prompts]
    warm = generate(model, prompts, sampling, options=options)
    assert [(one.tokens, one.origins) for one in warm] == [(one.tokens, one.origins) for one in cold]
    engine = Engine(model, options=options)
    for prompt in prompts:
        engine.add(Request(prompt=prompt, sampling=sampling))
    drain(engine)
    assert engine.scheduler.prefix_hits >= 4 * 10


def test_end_of_text_and_stop_ids_inside_an_accepted_run_end_exactly_there():
    model, prompts = tiny_model("sequential"), random_prompts(4, seed=26)
    plain = generate(model, prompts, Sampling(max_tokens=30))
    for one, prompt in zip(plain, prompts, strict=True):
        stop = one.tokens[10]
        expected = one.tokens[: one.tokens.index(stop) + 1]
        by_stop = generate(model, [prompt], Sampling(max_tokens=30, stop_ids=(stop,)))[0]
        by_end = generate(model, [prompt], Sampling(max_tokens=30), eos_ids=(stop,))[0]
        ignored = generate(model, [prompt], Sampling(max_tokens=30, ignore_eos=True), eos_ids=(stop,))[0]
        assert (by_stop.tokens, by_stop.finish_reason) == (expected, "stop")
        assert (by_end.tokens, by_end.finish_reason) == (expected, "stop")
        assert (ignored.tokens, ignored.finish_reason) == (one.tokens, "length")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 11])
def test_max_tokens_is_exact(count):
    found = generate(tiny_model("sequential"), random_prompts(8, seed=27), Sampling(max_tokens=count))
    assert {len(one.tokens) for one in found} == {count}


def test_an_output_ends_where_the_context_does():
    model = tiny_model("sequential")
    found = generate(model, [[1] * 120], Sampling(max_tokens=100))[0]
    assert (len(found.tokens), found.finish_reason) == (8, "length")


BAD = [
    (Request(prompt=[]), "empty"),
    (Request(prompt=[1] * 200), "200 tokens"),
    (Request(prompt=[VOCAB]), "token id 48"),
    (Request(prompt=[-1]), "token id -1"),
    (Request(prompt=[1], sampling=Sampling(min_tokens=9, max_tokens=3)), "min_tokens"),
    (Request(prompt=[1], sampling=Sampling(temperature=float("nan"))), "temperature"),
    (Request(prompt=[1], sampling=Sampling(logit_bias={99: 1.0})), "logit_bias"),
    (Request(prompt=[1], speculation=Speculation(decoder="standard", num_draft_tokens=2)), "drafts nothing"),
    (Request(prompt=[1], speculation=Speculation(num_draft_tokens=9)), "at most 3"),
]


@pytest.mark.parametrize(("request_", "words"), BAD)
def test_a_bad_request_is_refused_alone(request_, words):
    model, prompt = tiny_model("sequential"), [3, 4, 5]
    engine = Engine(model)
    good = engine.add(Request(prompt=prompt, sampling=Sampling(max_tokens=8)))
    with pytest.raises(UsageError, match=words):
        engine.add(request_)
    assert drain(engine)[good] == alone(model, [prompt], Sampling(max_tokens=8))[0]


def test_a_model_without_modules_refuses_the_decoder_mtp():
    with pytest.raises(UsageError, match="has none"):
        Engine(tiny_model("none")).add(Request(prompt=[1]))


def test_logits_that_are_not_finite_fail_that_request_alone():
    model = copy.deepcopy(tiny_model("sequential"))
    prompts = [[3, 4, 5], [6, 40, 7], [8, 9]]
    sampling = Sampling(max_tokens=12, logit_bias={40: -100.0})
    expected = alone(model, prompts, sampling)
    with torch.no_grad():
        model.model.embed_tokens.weight[40] = float("nan")
    for _ in range(2):
        engine = Engine(model, options=EngineOptions(cache_blocks=24))
        numbers = [engine.add(Request(prompt=prompt, sampling=sampling)) for prompt in prompts]
        errors, found = {}, {}
        while engine.has_work:
            for output in engine.step():
                found.setdefault(output.request_id, []).extend(token.id for token in output.tokens)
                if output.error:
                    errors[output.request_id] = output.error
        assert list(errors) == [numbers[1]]
        assert [found[numbers[0]], found[numbers[2]]] == [expected[0], expected[2]]


def test_nobody_starves_behind_a_stream_of_more_urgent_requests():
    engine = Engine(tiny_model("none"), options=EngineOptions(max_batch_size=1))
    standard = Speculation(decoder="standard")
    patient = engine.add(Request(prompt=[1, 2], sampling=Sampling(max_tokens=2), speculation=standard, priority=1))
    for _ in range(400):
        if engine.waiting < 2:
            engine.add(Request(prompt=[3], sampling=Sampling(max_tokens=2), speculation=standard))
        if any(output.request_id == patient and output.finish_reason for output in engine.step()):
            return
    pytest.fail("still waiting after 400 steps")
