import itertools
import random

import pytest

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, generate
from mtp.decode.controller import (
    COLD_STEPS,
    LONGEST_COLD,
    MARGIN,
    PATIENCE,
    REGRET,
    DraftController,
    best_lengths,
)
from mtp.decode.costs import Curve, StepCosts
from mtp.decode.turns import EARLY, KEPT, PLAIN_STEPS, REFRESH, Step, Turns
from tests.decode.tiny import random_prompts, tiny_model

ADAPTIVE = EngineOptions(adaptive_drafts=True)


def costs(verify, draft):
    fill = Curve([(1, draft(1))])
    return StepCosts(Curve([(1, verify(1)), (64, verify(64))]), Curve([(1, draft(1)), (8, draft(8))]), fill)


def lengths_of(chances, known):
    return best_lengths(chances, 0, known, MARGIN).lengths


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
        found = lengths_of(chances, known)
        assert rate(found, chances, known) * MARGIN >= rate(best, chances, known)


def test_nothing_is_drafted_where_a_draft_costs_more_than_it_brings():
    known = costs(lambda n: float(n), lambda n: 0.5)
    assert lengths_of([[0.9, 0.9, 0.9]], known) == [0]
    assert lengths_of([[0.9, 0.9, 0.9]], costs(lambda n: 1.0, lambda n: 0.01)) == [3]


def test_a_request_that_drafts_well_gets_more_drafts_than_one_that_does_not():
    known = costs(lambda n: 1 + 0.1 * n, lambda n: 0.1)
    good, bad = lengths_of([[0.95, 0.95, 0.95], [0.05, 0.05, 0.05]], known)
    assert good > bad == 0


@pytest.mark.parametrize("kind", ["sequential", "independent", "parallel_2"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_adaptive_drafts_change_no_token(kind, temperature):
    model, prompts = tiny_model(kind), random_prompts(12, seed=31)
    sampling = Sampling(max_tokens=100 - max(map(len, prompts)) + 20, temperature=temperature, seed=3)
    standard = generate(model, prompts, sampling, Speculation(decoder="standard"))
    adaptive = generate(model, prompts, sampling, Speculation(), options=ADAPTIVE)
    assert [one.tokens for one in adaptive] == [one.tokens for one in standard]


def finished(engine, tokens):
    """A request of its own from start to end; the sequence."""
    engine.add(Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=tokens, ignore_eos=True)))
    (sequence,) = engine._live.values()
    while engine.has_work:
        engine.step()
    return sequence


def test_a_request_whose_drafts_cannot_pay_is_standard_decoding_from_the_start():
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    engine._controller.costs = costs(lambda n: float(n) ** 2, lambda n: 100.0)
    assert finished(engine, 40).module_depth == 0
    assert engine.stats.drafted_per_position == []


def test_a_request_whose_drafts_pay_no_more_ends_as_standard_decoding():
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    engine._controller.costs = costs(lambda n: 1.0, lambda n: 0.01)
    engine.add(Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=100, ignore_eos=True)))
    (sequence,) = engine._live.values()
    for _ in range(EARLY):
        engine.step()
    assert engine.stats.drafted_per_position
    assert sequence.module_depth == 3
    engine._controller.costs = costs(lambda n: float(n) ** 2, lambda n: 100.0)
    for _ in range(PATIENCE + 1):
        engine.step()
    assert sequence.module_depth == 0
    assert not engine._controller.controls(sequence)


def set_clock(controller, verify, draft):
    """Let steps take verify(rows, drafts) seconds, and `levels` drafts in a row draft(levels), whatever they take."""
    verified, drafted = controller.verified, controller.drafted
    controller.verified = lambda rows, drafts, accepted, _: verified(rows, drafts, accepted, verify(rows, drafts))
    controller.drafted = lambda rows, levels, _: drafted(rows, levels, draft(levels))


class Known(StepCosts):
    """Costs that stay what they are, whatever this machine takes."""

    def verified(self, tokens, seconds):
        pass

    def drafted(self, rows, levels, seconds):
        pass


def test_probing_costs_no_more_than_its_share_of_the_time():
    """The model's drafts are bad: nothing is drafted at first, and later no more than REGRET of the seconds spent."""
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    controller, fill = engine._controller, Curve([(1, 0.3)])
    controller.costs = known = Known(Curve([(1, 1.0), (64, 13.6)]), Curve([(1, 0.3), (8, 0.3)]), fill)
    set_clock(controller, lambda rows, drafts: known.verify(rows + drafts), lambda levels: 0.3 * levels)
    for _ in range(1000):
        controller._everyone.observe(3, 0)
    finished(engine, 100)
    assert engine.stats.drafted_per_position == []
    spent, draft = 0.0, known.verify(2) - known.verify(1) + 0.3
    for _ in range(12):
        controller._spent = spent = spent + 1000 * known.verify(1)  # as if so many steps had been made
        finished(engine, 100)
    drafted = sum(engine.stats.drafted_per_position)
    assert 0 < drafted * draft <= REGRET * spent


def take_turns(turns, steps, drafting, promise, worth_drafting=lambda worth: True):
    """Steps as a controller makes them; whether each had drafts. Plain ones take a second for each of two requests."""
    made = []
    for _ in range(steps):
        made.append(not turns.plain_is_due and worth_drafting(turns.worth))
        turns.count(drafting if made[-1] else Step(2, 2, 1.0), promise if made[-1] else None)
    return made


def test_steps_without_drafts_come_often_at_first_and_seldom_later():
    known = KEPT * (EARLY + PLAIN_STEPS)
    made = take_turns(Turns(), known + 2 * (REFRESH + PLAIN_STEPS), Step(2, 3, 1.0), 1.5)
    assert made[: EARLY + PLAIN_STEPS + 1] == [True] * EARLY + [False] * PLAIN_STEPS + [True]
    assert made[:known].count(False) == KEPT * PLAIN_STEPS
    assert made[known:].count(False) == 2 * PLAIN_STEPS


def test_a_promise_is_worth_what_the_steps_around_it_made_of_it():
    kept, broken = Turns(), Turns()
    take_turns(kept, 200, Step(2, 3, 1.2), 1.25)
    assert kept.worth == pytest.approx(1.0)
    take_turns(broken, 200, Step(2, 3, 2.0), 1.5)  # half as many tokens more, in twice the time
    assert broken.worth == pytest.approx(0.5)


def test_drafts_that_break_their_promise_are_tried_again_but_seldom():
    made = take_turns(Turns(), 20_000, Step(2, 3, 1.6), 1.5, lambda worth: 1.5 * worth > MARGIN)
    assert made[:EARLY] == [True] * EARLY
    assert made.count(True) > EARLY
    assert made.count(True) * (1.6 - 3 / 2) < REGRET * len(made)
    assert sum(a != b for a, b in itertools.pairwise(made)) == 2 * made.count(True) / EARLY - 1


def test_a_controller_whose_costs_are_wrong_stops_drafting():
    """The calibration says that drafts cost nothing, and every step with drafts takes three times as long."""
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    controller = engine._controller
    controller.costs = Known(Curve([(1, 1.0), (64, 1.0)]), Curve([(1, 0.0), (8, 0.0)]), Curve([(1, 0.0)]))
    set_clock(controller, lambda _, drafts: 3.0 if drafts else 1.0, lambda _: 0.0)
    for _ in range(40):
        finished(engine, 100)
    steps = engine.stats.target_passes
    assert EARLY <= engine.stats.drafted_per_position[0] < 0.05 * steps


def test_costs_follow_the_machine_and_a_single_slow_step_changes_nothing():
    known = costs(lambda n: float(n), lambda n: 0.5)
    for _ in range(30):
        known.verified(1, 2.0)  # everything is twice as slow now
    assert known.verify(64) == pytest.approx(128.0)
    assert known.draft(1) == pytest.approx(1.0)
    for seconds in (64 * 3.0, 64 * 300.0, 64 * 3.0):
        known.verified(64, seconds)  # and passes of 64 three times
    assert known.verify(64) == pytest.approx(192.0)
    assert known.verify(1) == pytest.approx(2.0)


def test_sizes_that_nobody_has_tried_are_judged_by_the_plain_steps():
    known = costs(lambda n: float(n), lambda n: 0.5)
    for _ in range(20):
        known.verified(2, 2 * 3.0)  # steps with drafts, in a slow minute
    for _ in range(30):
        known.verified(1, 1.0)  # the minute is over, and nobody drafts
    assert known.verify(1) == pytest.approx(1.0)
    assert known.verify(64) == pytest.approx(64.0)


def test_nothing_is_learned_from_the_first_steps_after_a_prompt_unless_there_are_no_others():
    controller = DraftController(costs(lambda n: float(n), lambda n: 0.5), 3)
    controller.prefilled()
    for _ in range(COLD_STEPS):
        controller.verified(1, 0, 0, 3.0)
    assert controller.costs.verify(1) == pytest.approx(1.0)
    for _ in range(30 * LONGEST_COLD):
        controller.prefilled()
        controller.verified(1, 0, 0, 3.0)
    assert controller.costs.verify(1) == pytest.approx(3.0)


def test_one_request_whose_drafts_fall_does_not_speak_for_the_next():
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    controller = engine._controller
    controller.costs = costs(lambda n: 1.0 + 0.1 * n, lambda n: 0.05)
    for _ in range(16):
        controller._everyone.observe(1, 0)
    assert best_lengths([[controller._belief(k) for k in range(3)]], 0, controller.costs, MARGIN).gain > MARGIN


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
