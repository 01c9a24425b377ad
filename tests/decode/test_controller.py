import itertools
import random

import pytest

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, generate
from mtp.decode.controller import MARGIN, PATIENCE, REGRET, DraftController
from mtp.decode.costs import Curve, StepCosts, difference, measure
from mtp.decode.draft_lengths import Others, best_lengths, step_cost
from mtp.decode.turns import EARLY, KEPT, PLAIN_STEPS, REFRESH, Promise, Turns
from mtp.errors import UsageError
from tests.decode.tiny import random_prompts, tiny_model

ADAPTIVE = EngineOptions(adaptive_drafts=True)


def costs(verify, draft, slot=0.0):
    target, drafts = Curve([(1, verify(1)), (64, verify(64))]), Curve([(1, draft(1)), (8, draft(8))])
    return StepCosts(target, drafts, Curve([(1, draft(1))]), Curve([(1, slot), (8, slot)]))


def lengths_of(chances, known):
    return best_lengths(chances, Others(), known, MARGIN).lengths


def rate(lengths, chances, known):
    expected = 0.0
    for length, own in zip(lengths, chances, strict=True):
        expected += 1 + sum(list(itertools.accumulate(own[:length], lambda a, b: a * b)))
    rows = [sum(length > k for length in lengths) for k in range(max(lengths))]
    making = sum(known.draft(count, k) for k, count in enumerate(rows, start=1))
    return expected / (known.verify(len(chances) + sum(lengths)) + making)


def test_the_chosen_lengths_are_the_best_of_all_combinations():
    dice = random.Random(5)
    for _ in range(60):
        slope, price, slot = dice.uniform(0, 0.5), dice.uniform(0, 0.6), dice.uniform(0, 0.2)
        known = costs(lambda n, s=slope: 1 + s * (n - 1), lambda n, p=price: p, slot)
        chances = [[dice.random() for _ in range(3)] for _ in range(1)]
        best = max(itertools.product(range(4), repeat=1), key=lambda some: rate(some, chances, known))
        found = lengths_of(chances, known)
        assert rate(found, chances, known) * MARGIN >= rate(best, chances, known)


def test_everybody_in_the_pass_counts_not_the_one_that_drafts_alone():
    """Three drafts more than double what one request gets of a step, and take a fifth of it from fifteen others."""
    chances, known = [[0.95, 0.95, 0.95]], costs(lambda n: 3.0 + 0.65 * n, lambda n: 1.0)
    alone = best_lengths(chances, Others(), known, MARGIN)
    assert alone.lengths == [3]
    assert best_lengths(chances, Others(15, 15), known, MARGIN) == ([0], 1.0)
    cheap = costs(lambda n: 3.0 + 0.01 * n, lambda n: 0.01)
    among = best_lengths(chances, Others(15, 15), cheap, 1.0)
    assert among.lengths == [3]
    tokens = 15 + rate([3], chances, costs(lambda n: 1.0, lambda n: 0.0))
    assert among.gain == pytest.approx(tokens / 16 * cheap.verify(16) / step_cost([3], 15, cheap))


def test_a_step_takes_its_pass_and_each_round_of_drafts():
    known = costs(lambda n: 1.0 + n, lambda n: 0.1 * n, slot=0.5)
    assert step_cost([2, 0, 1], 5, known) == pytest.approx(known.verify(11) + known.draft(2, 1) + known.draft(1, 2))
    assert step_cost([], 3, known) == known.verify(3)


def together(engine, speculations):
    """Requests that run together to the end; the sequences."""
    for speculation in speculations:
        sampling = Sampling(max_tokens=60, ignore_eos=True)
        engine.add(Request(prompt=[1, 2, 3], sampling=sampling, speculation=speculation))
    sequences = list(engine._live.values())
    while engine.has_work:
        engine.step()
    return sequences


def test_a_request_among_many_without_drafts_takes_none_of_their_time():
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    engine._controller.costs = costs(lambda n: 3.0 + 0.65 * n, lambda n: 1.0)
    for _ in range(1000):
        engine._controller._everyone.observe(3, 3)
    standard = Speculation(decoder="standard")
    assert not any(one.stats.drafted_per_position for one in together(engine, [*[standard] * 7, Speculation()]))
    assert together(engine, [Speculation()])[0].stats.drafted_per_position


def test_one_drafts_ahead_of_others_that_will_though_it_does_not_pay_alone():
    """A round of drafts costs the same for one and for four; three that were left to standard decoding will be gone."""
    known = costs(lambda n: 4.0 + 0.1 * n, lambda n: 2.0)
    controller = DraftController(known, 1, [0.95])
    others, turns = Others(3, 3), controller._turns_of(4)
    assert controller._best([[0.95]], others, MARGIN, turns).lengths == [0]
    assert controller._best([[0.95]], others._replace(left=3), MARGIN, turns).lengths == [1]


def test_nothing_is_drafted_where_a_draft_costs_more_than_it_brings():
    known = costs(lambda n: float(n), lambda n: 0.5)
    assert lengths_of([[0.9, 0.9, 0.9]], known) == [0]
    assert lengths_of([[0.9, 0.9, 0.9]], costs(lambda n: 1.0, lambda n: 0.01)) == [3]


def test_a_later_draft_pays_for_the_slots_that_it_computes_anew():
    known = costs(lambda n: 1.0, lambda n: 0.2, slot=0.3)
    assert [known.draft(1, k) for k in (1, 2, 3)] == pytest.approx([0.2, 0.5, 0.8])
    assert lengths_of([[0.9, 0.8, 0.8]], costs(lambda n: 1.0, lambda n: 0.2)) == [3]
    assert lengths_of([[0.9, 0.8, 0.8]], known) == [1]
    assert difference(Curve([(1, 5.0), (4, 7.0)]), Curve([(1, 2.0), (4, 8.0)]), 3).at(1) == 1.0
    assert difference(Curve([(1, 5.0), (4, 7.0)]), Curve([(1, 2.0), (4, 8.0)]), 3).at(4) == 0.0


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


@pytest.mark.parametrize(("expected", "drafts"), [((), False), ((0.97, 0.97, 0.97), True), ((0.5,), False)])
def test_a_model_whose_drafts_are_known_to_stand_drafts_from_its_first_request_on(expected, drafts):
    options = EngineOptions(adaptive_drafts=True, expected_acceptance=expected)
    engine = Engine(tiny_model("sequential"), options=options)
    engine._controller.costs = costs(lambda n: 1.0 + 0.4 * (n - 1), lambda n: 0.3)
    finished(engine, 40)
    assert bool(engine.stats.drafted_per_position) == drafts


def test_an_expected_acceptance_that_is_no_chance_is_refused():
    with pytest.raises(UsageError, match="chances lie between 0 and 1"):
        EngineOptions(expected_acceptance=(0.9, 1.2))


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
    assert sequence.id not in engine._controller._own


def set_clock(controller, verify, draft):
    """Let steps take verify(rows, drafts) seconds, and the drafts of a step `draft` seconds, whatever they take."""
    verified = controller.verified
    controller.verified = lambda rows, drafts, _: verified(rows, drafts, verify(rows, drafts) + draft * bool(drafts))
    controller.decided = lambda _: None


def test_probing_costs_no_more_than_its_share_of_the_time():
    """The model's drafts are bad: nothing is drafted at first, and later no more than REGRET of the seconds spent."""
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    controller, fill = engine._controller, Curve([(1, 0.3)])
    controller.costs = known = StepCosts(Curve([(1, 1.0), (64, 13.6)]), Curve([(1, 0.3), (8, 0.3)]), fill)
    set_clock(controller, lambda rows, drafts: known.verify(rows + drafts), 0.9)
    for _ in range(1000):
        controller._everyone.observe(3, 0)
    finished(engine, 100)
    assert engine.stats.drafted_per_position == []
    spent, draft = 0.0, known.verify(2) - known.verify(1) + 0.3
    for _ in range(12):
        spent += 1000 * known.verify(1)
        controller._turns_of(1).spent = spent  # as if so many steps had been made
        finished(engine, 100)
    drafted = sum(engine.stats.drafted_per_position)
    assert 0 < drafted * draft <= REGRET * spent


def test_the_time_of_requests_that_may_not_draft_pays_for_no_probe():
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    set_clock(engine._controller, lambda rows, drafts: 1.0, 0.0)
    together(engine, [Speculation(decoder="standard")] * 2)
    turns = engine._controller._turns_of(2)
    assert turns.spent == 0.0
    together(engine, [Speculation(decoder="standard"), Speculation()])
    assert turns.spent > 0.0


def test_a_probe_is_paid_by_steps_of_its_own_batch_size():
    """A long time alone gives nothing to a batch of four, where the same drafts cost more."""
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    controller = engine._controller
    controller.costs = known = costs(lambda n: float(n), lambda n: 0.5)
    set_clock(controller, lambda rows, drafts: known.verify(rows + drafts), 0.5)
    controller._turns_of(1).spent = 1e6
    together(engine, [Speculation()] * 4)
    assert engine.stats.drafted_per_position == []
    controller._turns_of(4).spent = 1e6
    together(engine, [Speculation()] * 4)
    assert engine.stats.drafted_per_position


def take_turns(turns, steps, seconds, promise, pays=lambda overrun: True):
    """Steps as a controller makes them; whether each had drafts. Plain ones take a second."""
    made = []
    for _ in range(steps):
        made.append(not turns.plain_is_due and pays(turns.overrun(promise.depth)))
        turns.count(seconds if made[-1] else 1.0, promise if made[-1] else None)
    return made


def test_steps_without_drafts_come_often_at_first_and_seldom_later():
    known = KEPT * (EARLY + PLAIN_STEPS)
    made = take_turns(Turns(3), known + 2 * (REFRESH + PLAIN_STEPS), 1.0, Promise(1, 1.0))
    assert made[: EARLY + PLAIN_STEPS + 1] == [True] * EARLY + [False] * PLAIN_STEPS + [True]
    assert made[:known].count(False) == KEPT * PLAIN_STEPS
    assert made[known:].count(False) == 2 * PLAIN_STEPS


def test_what_steps_with_drafts_take_is_known_of_each_depth():
    turns = Turns(3)
    take_turns(turns, 200, 1.2, Promise(1, 1.2))
    take_turns(turns, 200, 2.0, Promise(2, 1.25))
    assert [turns.overrun(depth) for depth in (1, 2, 3)] == pytest.approx([1.0, 1.6, 1.0])


def test_one_slow_phase_of_the_machine_condemns_no_depth():
    turns = Turns(1)
    take_turns(turns, EARLY + PLAIN_STEPS, 1.9, Promise(1, 1.0))
    assert turns.overrun(1) == 1.0
    take_turns(turns, EARLY + PLAIN_STEPS, 1.9, Promise(1, 1.0))
    assert turns.overrun(1) == pytest.approx(1.9)


def test_drafts_that_cost_more_than_they_bring_are_tried_again_but_seldom():
    """They bring half as many tokens more and promise to cost nothing, but make steps take 1.6 times as long."""
    made = take_turns(Turns(1), 20_000, 1.6, Promise(1, 1.0), lambda overrun: 1.5 / overrun > MARGIN)
    assert made[:EARLY] == [True] * EARLY
    assert made.count(True) > EARLY
    assert made.count(True) * (1.6 - 1.5) < REGRET * len(made)
    assert sum(a != b for a, b in itertools.pairwise(made)) == 2 * made.count(True) / EARLY - 1


def test_a_depth_that_costs_too_much_gives_way_to_one_that_does_not():
    """Three tokens take six times as long as two, which nobody had measured."""
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    controller = engine._controller
    controller.costs = StepCosts(Curve([(1, 1.0), (64, 1.0)]), Curve([(1, 0.01), (8, 0.01)]), Curve([(1, 0.0)]))
    for _ in range(2000):
        controller._everyone.observe(3, 3)
    set_clock(controller, lambda _, drafts: 6.0 if drafts > 1 else 1.0, 0.01)
    for _ in range(20):
        finished(engine, 100)
    assert [controller._turns[1].overrun(depth) < 1.5 for depth in (1, 2, 3)] == [True, False, False]


def test_a_controller_whose_costs_are_wrong_stops_drafting():
    """The calibration says that drafts cost nothing, and every step with drafts takes three times as long."""
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    controller = engine._controller
    controller.costs = StepCosts(Curve([(1, 1.0), (64, 1.0)]), Curve([(1, 0.0), (8, 0.0)]), Curve([(1, 0.0)]))
    set_clock(controller, lambda _, drafts: 3.0 if drafts else 1.0, 0.0)
    for _ in range(40):
        finished(engine, 100)
    steps = engine.stats.target_passes
    assert EARLY <= engine.stats.drafted_per_position[0] < 0.12 * steps


def test_costs_lie_on_lines_between_what_was_measured_and_grow_in_proportion_beyond():
    curve = Curve([(4, 8.0), (1, 2.0), (8, 10.0)])
    assert [curve.at(size) for size in (1, 2, 4, 6, 8, 16)] == [2.0, 4.0, 8.0, 9.0, 10.0, 20.0]


def test_a_measurement_is_the_median_of_runs_that_each_follow_what_comes_before():
    made = []
    curve = measure(lambda size: made.append(("before", size)), lambda size: made.append(("run", size)), [1, 3])
    up = [("before", 1), ("run", 1), ("before", 3), ("run", 3)]
    assert made[:8] == [*up, ("before", 3), ("run", 3), ("before", 1), ("run", 1)]
    assert curve.at(1) > 0


def test_one_request_whose_drafts_fall_does_not_speak_for_the_next():
    engine = Engine(tiny_model("sequential"), options=ADAPTIVE)
    controller = engine._controller
    controller.costs = costs(lambda n: 1.0 + 0.1 * n, lambda n: 0.05)
    for _ in range(16):
        controller._everyone.observe(1, 0)
    assert best_lengths([[controller._belief(k) for k in range(3)]], Others(), controller.costs, MARGIN).gain > MARGIN


def test_an_engine_that_holds_hardly_more_than_a_step_is_measured_too():
    options = EngineOptions(adaptive_drafts=True, max_model_len=5, block_size=1, compiled_step="off")
    engine = Engine(tiny_model("sequential"), options=options)
    assert len(finished(engine, 2).tokens) == 5


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
