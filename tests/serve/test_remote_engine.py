"""A request outlives the replicas that it is on, in whatever way they are lost; a refusal is no loss."""

import asyncio

import grpc
import pytest
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError

from mtp.decode import Request, StepOutput, Token
from mtp.errors import UsageError
from serve.errors import APIError
from serve.heartbeat import HEARTBEAT_S, SILENCE_LIMIT_S
from serve.remote_engine import MAX_REPLICAS_LOST, RemoteEngine
from serve.serving_engine import EngineStoppedError

TAKEN = []
SILENCE = object()
"""From here on nothing comes."""


def step(*ids, finish_reason=None):
    return [StepOutput(request_id=0, tokens=[Token(number, 0) for number in ids], finish_reason=finish_reason)]


class Response:
    """What one replica sends: messages, errors that are raised in its name, and SILENCE."""

    def __init__(self, script):
        self._script = iter(script)
        self.cancelled = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        message = next(self._script, StopAsyncIteration())
        if message is SILENCE:
            await asyncio.Event().wait()
        if isinstance(message, BaseException):
            raise message
        return message

    def cancel(self):
        self.cancelled = True


class Handle:
    """Gives each attempt the next script, and keeps the requests that came."""

    def __init__(self, *scripts):
        self._scripts = iter(scripts)
        self.requests, self.responses = [], []

    def options(self, **_):
        return self

    def remote(self, request):
        self.requests.append(request)
        self.responses.append(Response(next(self._scripts)))
        return self.responses[-1]


def told(handle, silence_limit_s=60.0):
    """The token ids of each batch that the consumer gets, and how often the request went on elsewhere."""

    async def run():
        resumed, batches = [], []
        engine = RemoteEngine(handle, lambda: resumed.append(1), silence_limit_s=silence_limit_s)
        async with engine.submit(Request(prompt=[1])) as steps:
            async for batch in steps:
                batches.append([token.id for output in batch for token in output.tokens])
        return batches, len(resumed)

    return asyncio.run(run())


def emitted(handle):
    return [tuple(request.emitted) for request in handle.requests]


def test_heartbeats_are_not_shown_to_the_consumer():
    handle = Handle([TAKEN, [], step(5), [], [], step(6, finish_reason="length"), []])
    assert told(handle) == ([[5], [6]], 0)


def test_a_request_on_a_replica_that_falls_silent_goes_on_on_another_with_what_it_has():
    handle = Handle([TAKEN, step(5), [], step(6), SILENCE], [TAKEN, step(7, finish_reason="length")])
    assert told(handle, silence_limit_s=0.1) == ([[5], [6], [7]], 1)
    assert emitted(handle) == [(), (5, 6)]
    assert handle.responses[0].cancelled


def test_replicas_that_all_fall_silent_are_not_tried_for_ever():
    handle = Handle(*[[TAKEN, SILENCE]] * MAX_REPLICAS_LOST)
    with pytest.raises(EngineStoppedError):
        told(handle, silence_limit_s=0.1)
    assert all(response.cancelled for response in handle.responses)


def test_a_request_may_wait_for_a_replica_longer_than_one_may_be_silent():
    class Queued(Response):
        async def __anext__(self):
            await asyncio.sleep(0.3)
            return await super().__anext__()

    handle = Handle([])
    handle.remote = lambda request: Queued([TAKEN])

    async def run():
        engine = RemoteEngine(handle, silence_limit_s=0.1)
        async with engine.submit(Request(prompt=[1])):
            return "taken"

    assert asyncio.run(run()) == "taken"


def test_a_client_that_leaves_the_queue_takes_its_request_along():
    async def run():
        handle = Handle([SILENCE])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), RemoteEngine(handle).submit(Request(prompt=[1])):
                pass
        return handle.responses[0].cancelled

    assert asyncio.run(run())


def broken(code):
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


LOSSES = {
    "a stream that is reset": broken(grpc.StatusCode.INTERNAL),
    "a stream that its server cancels": broken(grpc.StatusCode.CANCELLED),
    "a cancellation that the replica sends": asyncio.CancelledError(),
    "an engine that has stopped, over gRPC": EngineStoppedError("stopped"),
    "an engine that has stopped, over Ray's calls": RayTaskError("generate", "...", EngineStoppedError("stopped")),
    "a channel that the router has closed": grpc.aio.UsageError("Channel is closed."),
    "a connection that breaks before the first word": RuntimeError("Unexpected error (UNAVAILABLE)"),
    "an error that nobody has thought of": KeyError("replica"),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_whatever_tells_of_a_loss_the_request_goes_on(loss):
    handle = Handle([TAKEN, step(5), loss], [TAKEN, step(6, finish_reason="length")])
    assert told(handle) == ([[5], [6]], 1)
    assert emitted(handle) == [(), (5,)]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_whatever_tells_of_a_loss_before_it_has_begun_the_request_is_given_to_another(loss):
    handle = Handle([loss], [TAKEN, step(6, finish_reason="length")])
    assert told(handle) == ([[6]], 0)


REFUSALS = {
    "over gRPC": UsageError("min_p is 7"),
    "over Ray's calls": RayTaskError("generate", "...", UsageError("min_p is 7")),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_what_the_engine_refuses_is_refused_in_its_words_and_asked_of_no_other(refusal):
    handle = Handle([refusal])
    with pytest.raises(UsageError) as raised:
        told(handle)
    assert type(raised.value) is UsageError
    assert str(raised.value) == "min_p is 7"


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_after_it_has_begun_is_no_loss_either(refusal):
    with pytest.raises(UsageError):
        told(Handle([TAKEN, step(5), refusal]))


def test_a_full_queue_is_told_as_such():
    handle = Handle([BackPressureError(num_queued_requests=3, max_queued_requests=3)])
    with pytest.raises(APIError) as raised:
        told(handle)
    assert raised.value.status == 429


def test_a_cancelled_consumer_is_cancelled_and_its_request_with_it():
    async def run():
        handle = Handle([TAKEN, step(5), SILENCE])

        async def consume():
            async with RemoteEngine(handle).submit(Request(prompt=[1])) as steps:
                async for _ in steps:
                    pass

        consumer = asyncio.create_task(consume())
        await asyncio.sleep(0.05)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        return len(handle.requests), handle.responses[0].cancelled

    assert asyncio.run(run()) == (1, True)


def test_a_call_that_is_cancelled_a_moment_before_its_consumer_is_not_made_again():
    async def run():
        handle = Handle([TAKEN, step(5), asyncio.CancelledError()])
        arrived = asyncio.Event()

        async def consume():
            async with RemoteEngine(handle).submit(Request(prompt=[1])) as steps:
                async for _ in steps:
                    arrived.set()

        consumer = asyncio.create_task(consume())
        await arrived.wait()
        await asyncio.sleep(0.01)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        return len(handle.requests)

    assert asyncio.run(run()) == 1


def test_several_heartbeats_may_be_late():
    assert SILENCE_LIMIT_S >= 4 * HEARTBEAT_S
