"""Outputs reach their handler joined: the first and the last at once, those between when their time has come."""

import asyncio
import itertools

import pytest

from mtp.decode import DecodeStats, StepOutput, Token, TokenLogprob
from serve.pace import LONGEST_INTERVAL_S, Pace, interval
from serve.serving_engine import EngineStoppedError
from serve.subscription import Subscription, joined


def output(*ids, finish_reason=None, **more):
    return StepOutput(request_id=0, tokens=[Token(number, 0) for number in ids], finish_reason=finish_reason, **more)


def ids_of(outputs):
    return [[token.id for token in one.tokens] for one in outputs]


def read(deliveries):
    """What the handler reads, delivery by delivery: (outputs, stopped)."""

    async def run():
        subscription = Subscription(asyncio.get_running_loop())
        outputs = subscription.outputs()
        batches = []
        for some, stopped in deliveries:
            subscription.deliver(some, stopped=stopped)
            batches.append(ids_of(await anext(outputs)))
        return batches, await anext(outputs, None)

    return asyncio.run(run())


def test_the_first_and_the_last_output_are_urgent():
    async def run():
        subscription = Subscription(asyncio.get_running_loop())
        seen = []
        for one in (output(1), output(2), output(3, finish_reason="length")):
            subscription.keep(one)
            seen.append(subscription.urgent)
            subscription.take()
        return seen

    assert asyncio.run(run()) == [True, False, True]


def test_every_output_is_taken_once_and_in_order():
    async def run():
        subscription = Subscription(asyncio.get_running_loop())
        subscription.keep(output(1))
        subscription.keep(output(2))
        return [ids_of(subscription.take()), ids_of(subscription.take())]

    assert asyncio.run(run()) == [[[1], [2]], []]


def test_what_was_taken_does_not_change_while_it_is_sent():
    async def run():
        subscription, growing = Subscription(asyncio.get_running_loop()), DecodeStats()
        growing.count_step(1, 0, 0)
        subscription.keep(output(1, so_far=growing))
        taken = subscription.take()
        growing.count_step(3, 2, 2)
        return taken[0].so_far

    assert asyncio.run(run()) == DecodeStats(target_passes=1, tokens=1)


def test_what_is_delivered_together_is_read_as_one_output():
    batches, after = read([([output(1), output(2, 3)], False), ([output(4, finish_reason="stop")], False)])
    assert batches == [[[1, 2, 3]], [[4]]]
    assert after is None


def test_an_engine_that_died_is_told_after_what_it_had_made():
    with pytest.raises(EngineStoppedError):
        read([([output(1)], False), ([output(2)], True)])


def test_joined_outputs_have_what_the_last_one_knows_and_the_prompts_logprobs_of_the_first():
    prompt, stats = [None, TokenLogprob(5, -1.0)], DecodeStats(tokens=3)
    first, last = output(1, prompt_logprobs=prompt), output(2, 3, finish_reason="length", stats=stats, so_far=stats)
    assert joined([first, last]) == [
        output(1, 2, 3, finish_reason="length", prompt_logprobs=prompt, stats=stats, so_far=stats)
    ]


def test_an_error_stays_an_output_of_its_own():
    failed = output(finish_reason="error", error="not finite")
    assert joined([output(1), output(2), failed]) == [output(1, 2), failed]
    assert joined([failed]) == [failed]


def test_many_streams_share_the_messages_and_none_waits_for_long():
    assert interval(1) < interval(4) < interval(8) <= interval(1000) == LONGEST_INTERVAL_S


def told(streams, step_s, steps):
    """After which steps of so many seconds it is time to send."""
    now = [0.0]
    pace = Pace(lambda: now[0])
    found = []
    for _ in range(steps):
        now[0] += step_s
        found.append(pace.is_due(streams))
    return found


@pytest.mark.parametrize(("streams", "step_s"), [(1, 0.0006), (4, 0.013), (16, 0.002), (16, 0.03), (4, 2.0)])
def test_no_two_messages_of_a_stream_are_further_apart_than_its_interval_or_a_step(streams, step_s):
    steps = 200
    due = [number for number, sent in enumerate(told(streams, step_s, steps)) if sent]
    gaps = [(later - earlier) * step_s for earlier, later in itertools.pairwise(due)]
    assert max(gaps) <= max(interval(streams), step_s) + 1e-9
    assert min(gaps) >= interval(streams) - step_s - 1e-9 or step_s > interval(streams)
