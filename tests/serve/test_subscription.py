"""Outputs reach their handler in batches: the first and the last at once, those between when their time has come."""

import asyncio

import pytest

from mtp.decode import StepOutput
from serve.serving_engine import EngineStoppedError
from serve.subscription import LONGEST_INTERVAL_S, Subscription, interval


def output(number, finish_reason=None):
    return StepOutput(request_id=number, tokens=[], finish_reason=finish_reason)


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def collected(interval_s, deliveries):
    """The numbers of each batch, after `deliveries` of outputs with a rest between."""

    async def run():
        subscription = Subscription(asyncio.get_running_loop(), lambda: interval_s)
        batches = []

        async def read():
            async for steps in subscription.outputs():
                batches.append([step.request_id for step in steps])

        reader = asyncio.create_task(read())
        seen = []
        for some in deliveries:
            for one in some:
                subscription.deliver(one)
            await settle()
            seen.append(len(batches))
        await reader
        return batches, seen

    return asyncio.run(run())


def test_between_the_first_and_the_last_output_nothing_comes_before_its_time():
    batches, seen = collected(3600.0, [[output(1)], [output(2)], [output(3)], [output(4, "length")]])
    assert batches == [[1], [2, 3, 4]]
    assert seen == [1, 1, 1, 2]


def test_without_an_interval_every_delivery_comes_by_itself():
    batches, _ = collected(0.0, [[output(1), output(2)], [output(3)], [output(4, "stop")]])
    assert batches == [[1, 2], [3], [4]]


def test_held_back_outputs_come_when_their_time_is_there():
    async def run():
        subscription = Subscription(asyncio.get_running_loop(), lambda: 0.02)
        outputs = aiter(subscription.outputs())
        subscription.deliver(output(1))
        first = await anext(outputs)
        subscription.deliver(output(2))
        subscription.deliver(output(3))
        return [[step.request_id for step in steps] for steps in (first, await anext(outputs))]

    assert asyncio.run(run()) == [[1], [2, 3]]


def test_an_engine_that_died_is_told_at_once():
    with pytest.raises(EngineStoppedError):
        collected(3600.0, [[output(1)], [output(2), None]])


def test_many_streams_share_the_messages_and_none_waits_for_long():
    assert interval(1) < interval(4) < interval(8) <= interval(1000) == LONGEST_INTERVAL_S
