import itertools
import random

import pytest

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, generate
from mtp.decode.controller import MARGIN, PATIENCE, best_lengths
from mtp.decode.costs import Curve, StepCosts
from tests.decode.tiny import random_prompts, tiny_model

ADAPTIVE = EngineOptions(adaptive_drafts=True)


def costs(verify, draft):
    return StepCosts(Curve([(1, verify(1)), (64, verify(64))]), Curve([(1, draft(1)), (8, draft(8))]))


def rate(lengths, chances, known):
    expected = 0.0
    for length, own in zip(lengths, chances, strict=True):
        expected += 1 + sum(list(itertools.accumulate(own[:length], lambda a, b: a * b)))
    rows = [sum(length > k for length in lengths) for k in range(max(lengths))]
    return expected / (known.verify(len(chances) + sum(lengths)) + sum(known.draft(count) for count in rows))


def test_the_chosen_lengths_are_the_best_of_all_combinations():
    dice = random.Random(5)
    for _ in range(60):
        slope, price = dice.uniform(0, 0.5), dice.uniform(0, 0.6)
        known = costs(lambda n, s=slope: 1 + s * (n - 1), lambda n, p=price: p)
        chances = [[dice.random() for _ in range(3)] for _ in range(1)]
        best = max(itertools.product(range(4), repeat=1), key=lambda some: rate(some, chances, known))
        found = best_lengths(chances, 0, known)
        assert rate(found, chances, known) * MARGIN >= rate(best, chances, known)


def test_nothing_is_drafted_where_a_draft_costs_more_than_it_brings():
    known = costs(lambda n: float(n), lambda n: 0.5)
    assert best_lengths([[0.9, 0.9, 0.9]], 0, known) == [0]
    assert best_lengths([[0.9, 0.9, 0.9]], 0, costs(lambda n: 1.0, lambda n: 0.01)) == [3]


def test_a_request_that_drafts_well_gets_more_drafts_than_one_that_does_not():
    known = costs(lambda n: 1 + 0.1 * n, lambda n: 0.1)
    good, bad = best_lengths([[0.95, 0.95, 0.95], [0.05, 0.05, 0.05]], 0, known)
    assert good > bad == 0


@pytest.mark.parametrize("kind", ["sequential", "independent", "parallel_2"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_adaptive_drafts_change_no_token(kind, temperature):
    model, prompts = tiny_model(kind), random_prompts(12, seed=31)
    sampling = Sampling(max_tokens=100 - max(map(len, prompts)) + 20, temperature=temperature, seed=3)
    standard = generate(model, prompts, sampling, Speculation(decoder="standard"))
    adaptive = generate(model, prompts, sampling, Speculation(), options=ADAPTIVE)
    assert [one.tokens for one in adaptive] == [one.tokens for one in standard]


def test_a_request_whose_drafts_never_pay_ends_as_standard_decoding():
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    engine._controller.costs = costs(lambda n: float(n) ** 2, lambda n: 100.0)
    engine._controller._arrivals = -1  # the next request is a probe
    engine.add(Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=PATIENCE + 20, ignore_eos=True)))
    (sequence,) = engine._live.values()
    assert sequence.module_depth == 3
    while engine.has_work:
        engine.step()
    assert sequence.module_depth == 0
    assert engine.stats.drafted_per_position == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reduced_draft_vocabulary_changes_no_token(temperature):
    model, prompts = tiny_model("sequential"), random_prompts(8, seed=32)
    sampling = Sampling(max_tokens=40, temperature=temperature, seed=9)
    whole = generate(model, prompts, sampling, Speculation(decoder="standard"))
    options = EngineOptions(draft_vocab_size=20)
    reduced = generate(model, prompts, sampling, Speculation(), options=options)
    assert [one.tokens for one in reduced] == [one.tokens for one in whole]
    drafts = [token for one in reduced for token, origin in zip(one.tokens, one.origins, strict=True) if origin]
    assert drafts
    assert max(drafts) < 20
