"""What a replica sends is what its engine gave, and an empty list now and then while that is nothing."""

import asyncio

import pytest

from mtp.decode import StepOutput
from serve.heartbeat import with_heartbeats

NEVER_S = 3600.0
"""So long an interval that no heartbeat comes."""


class Source:
    """Gives each batch when told to, and knows how it ended."""

    def __init__(self, *batches, failure=None):
        self.batches = [[StepOutput(request_id=number, tokens=[])] for number in batches]
        self.go = asyncio.Event()
        self.failure = failure
        self.closed = False

    async def outputs(self):
        try:
            for batch in self.batches:
                await self.go.wait()
                yield batch
            if self.failure is not None:
                raise self.failure
        finally:
            self.closed = True


def numbers(batch):
    return [output.request_id for output in batch]


def test_an_idle_source_is_told_of_again_and_again_and_then_loses_nothing():
    async def run():
        source = Source(1, 2, 3)
        batches = with_heartbeats(source.outputs(), interval_s=0.01)
        idle = [await anext(batches) for _ in range(5)]
        source.go.set()
        return idle, [numbers(batch) async for batch in batches if batch], source.closed

    assert asyncio.run(run()) == ([[]] * 5, [[1], [2], [3]], True)


def test_a_busy_source_comes_as_it_is():
    async def run():
        source = Source(*range(100))
        source.go.set()
        return [numbers(batch) async for batch in with_heartbeats(source.outputs(), NEVER_S)]

    assert asyncio.run(run()) == [[number] for number in range(100)]


def test_a_failure_comes_as_it_is_behind_what_came_before_it():
    async def run():
        source = Source(1, failure=ValueError("out of paper"))
        source.go.set()
        seen = []
        with pytest.raises(ValueError, match="out of paper"):
            async for batch in with_heartbeats(source.outputs(), NEVER_S):
                seen.append(numbers(batch))
        return seen

    assert asyncio.run(run()) == [[1]]


@pytest.mark.parametrize("left_behind", ["a heartbeat", "a batch"])
def test_a_consumer_that_leaves_closes_the_source(left_behind):
    async def run():
        source = Source(1, 2)
        if left_behind == "a batch":
            source.go.set()
        batches = with_heartbeats(source.outputs(), NEVER_S if source.go.is_set() else 0.01)
        assert bool(await anext(batches)) == source.go.is_set()
        await batches.aclose()
        return source.closed

    assert asyncio.run(run())


def test_a_consumer_that_is_cancelled_closes_the_source_at_once():
    async def run():
        source = Source(1)

        async def consume():
            async for _ in with_heartbeats(source.outputs(), NEVER_S):
                pass

        consumer = asyncio.create_task(consume())
        await asyncio.sleep(0.01)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(consumer, timeout=60)
        return source.closed

    assert asyncio.run(run())
