"""One version's replicas, seen from the gateway as a single engine that outlives each of them.

A request goes to a replica through Ray Serve's handle, which queues, routes and counts it. If the replica dies on the
way, the request is given to another one together with what it has emitted, and goes on from there: greedy output is
the same as if nothing had happened, sampled output is drawn from the same distribution. A replica that has begun and
falls silent, without even a heartbeat (heartbeat.py), counts as dead. Knows no HTTP and no text.
"""

import asyncio
import dataclasses
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_after_attempt, wait_exponential

from mtp.decode import DecodeStats, Request, StepOutput
from mtp.errors import MTPError
from serve.errors import APIError
from serve.heartbeat import SILENCE_LIMIT_S
from serve.serving_engine import EngineStoppedError

logger = logging.getLogger("mtp.gateway")
MAX_REPLICAS_LOST = 3
"""A request that has seen so many replicas die is suspected of killing them."""
PAUSE_S = 0.1
"""Before a request that no replica had taken is sent once more, then twice as long: the router may not know yet which
of them is gone."""
CANCELLED_TOO_S = 0.5
"""How much later than a call of its own a task may be cancelled, when a client has left and Ray Serve cancels both."""


class RemoteEngine:
    """Has the interface of EngineLoop.submit."""

    def __init__(
        self,
        handle: "DeploymentHandle[Any]",
        on_resume: Callable[[], None] = lambda: None,
        *,
        seeds: bool = True,
        silence_limit_s: float = SILENCE_LIMIT_S,
    ) -> None:
        """`on_resume` is told of every request that goes on on another replica.

        With `seeds` a request without a seed gets one, so that another replica draws what the first would have drawn;
        not for engines that cannot. A replica that has taken a request and sends nothing for `silence_limit_s` seconds
        is lost.
        """
        self._handle = handle.options(stream=True, method_name="generate")
        self._on_resume = on_resume
        self._seeds = seeds
        self._silence_limit_s = silence_limit_s

    @asynccontextmanager
    async def submit(self, request: Request) -> AsyncIterator[AsyncIterator[list[StepOutput]]]:
        """The outputs of `request`; when the block begins a replica has taken it, and leaving it early cancels it.

        Until then it may wait in Ray Serve's queue, for a replica that is free or is started. That is not told from a
        replica that was sent it and is silent, so the request's own deadline alone bounds it here. (Ray breaks such a
        connection: after 2 minutes if the host is gone, after 7 or when Ray Serve has killed it if it is frozen.)

        Raises:
            UsageError: the engine refuses the request.
            APIError: too many requests wait (429), or no replica lives (503).
        """
        attempt = _Attempt(self._handle, _with_seed(request) if self._seeds else request, self._silence_limit_s)
        await self._open(attempt)
        steps = self._steps(attempt)
        try:
            yield steps
        finally:
            await steps.aclose()

    async def _open(self, attempt: "_Attempt") -> None:
        tries = AsyncRetrying(
            retry=retry_if_exception(_tells_of_a_loss),
            stop=stop_after_attempt(MAX_REPLICAS_LOST),
            wait=wait_exponential(PAUSE_S),
            after=lambda state: _log_loss(state.outcome.exception() if state.outcome else None),
        )
        try:
            await tries(attempt.open)
        except BackPressureError:
            message = "as many requests are waiting for this model as may; try again later"
            raise APIError(429, message, code="overloaded", retry_after=1) from None
        except DeploymentUnavailableError:
            raise APIError(503, "no replica of this model is running", code="unavailable", retry_after=5) from None
        except RetryError as error:
            raise EngineStoppedError("replicas die while they take this request") from error

    async def _steps(self, attempt: "_Attempt") -> AsyncGenerator[list[StepOutput], None]:
        lost = 0
        try:
            while True:
                try:
                    async for steps in attempt.steps():
                        yield steps
                        if steps and steps[-1].finish_reason is not None:
                            return
                    raise EngineStoppedError("a replica ended a request without its last token")
                except Exception as error:
                    if not _tells_of_a_loss(error):
                        raise
                    lost += 1
                    _log_loss(error)
                    attempt.close()
                    if lost >= MAX_REPLICAS_LOST:
                        raise EngineStoppedError(f"{lost} replicas died under this request") from error
                self._on_resume()
                attempt = attempt.continued()
                await self._open(attempt)
        finally:
            attempt.close()


def _tells_of_a_loss(error: BaseException) -> bool:
    """Whether a replica was lost, so that the request goes to another one.

    A refusal is an error of ours, or one of Ray Serve's two; a loss is told of in more ways than could be named: a dead
    or unreachable actor, a request that was cancelled or failed "upstream", a broken stream, a channel that the router
    has just closed, a bare RuntimeError where a connection breaks before its first word. With a list of such errors,
    one that it lacked was an answer of 500 while another replica was free.
    """
    refusals = MTPError | BackPressureError | DeploymentUnavailableError
    return isinstance(error, Exception) and not isinstance(error, refusals)


def _log_loss(error: BaseException | None) -> None:
    logger.warning("a replica was lost under a request: %s: %s", type(error).__name__, str(error)[:300])


class _Attempt:
    """A request on one replica, and what came of it there."""

    def __init__(
        self,
        handle: "DeploymentHandle[Any]",
        request: Request,
        silence_limit_s: float,
        before: DecodeStats | None = None,
    ) -> None:
        self._handle = handle
        self._request = request
        self._silence_limit_s = silence_limit_s
        self._before = before or DecodeStats()
        """What earlier replicas did for it."""
        self._latest = DecodeStats()
        self._emitted: list[int] = []
        self._response: Any = None

    async def open(self) -> None:
        """Returns when a replica has taken the request; may be called again after it has failed."""
        try:
            self._response = self._handle.remote(self._request)
            async with _as_raised():
                if await anext(aiter(self._response), None) is None:
                    raise EngineStoppedError("a replica ended a request before it had begun")
        except BaseException:  # lost, refused, or nobody waits any more: the client has left, or its time is over
            self.close()
            raise

    async def steps(self) -> AsyncIterator[list[StepOutput]]:
        """What the replica sends, without its heartbeats."""
        async with _as_raised():
            while (steps := await self._next()) is not None:
                if not steps:
                    continue
                for output in steps:
                    self._emitted += [token.id for token in output.tokens]
                    self._latest = output.so_far
                    output.so_far = self._total()
                    if output.stats is not None:
                        output.stats = output.so_far
                yield steps

    async def _next(self) -> list[StepOutput] | None:
        """The next message; None at the end.

        Raises:
            EngineStoppedError: none has come in time.
        """
        try:
            async with asyncio.timeout(self._silence_limit_s) as limit:
                return await anext(self._response, None)
        except TimeoutError:
            if not limit.expired():  # it is the replica's
                raise
            raise EngineStoppedError(f"a replica has been silent for {self._silence_limit_s:g} s") from None

    def close(self) -> None:
        if self._response is not None:
            with suppress(Exception):  # where no replica got the request, it raises once more why
                self._response.cancel()
            self._response = None

    def continued(self) -> "_Attempt":
        request = dataclasses.replace(self._request, emitted=(*self._request.emitted, *self._emitted))
        return _Attempt(self._handle, request, self._silence_limit_s, self._total())

    def _total(self) -> DecodeStats:
        total = DecodeStats()
        total.add(self._before)
        total.add(self._latest)
        return total


def _with_seed(request: Request) -> Request:
    """With a seed of its own, if it has none."""
    if request.sampling.seed is not None:
        return request
    sampling = dataclasses.replace(request.sampling, seed=random.getrandbits(63))
    return dataclasses.replace(request, sampling=sampling)


@asynccontextmanager
async def _as_raised() -> AsyncIterator[None]:
    """Inside, what a replica raised is raised as it was there, whatever brought it.

    gRPC brings it as it is; Ray's calls in an error of their own, whose message is a traceback and no client's. A
    replica that gives its requests up sends a cancellation, which is none of this task.
    """
    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        await asyncio.sleep(CANCELLED_TOO_S)
        raise EngineStoppedError("a replica has cancelled a request") from None
