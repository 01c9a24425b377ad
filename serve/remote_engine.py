"""One version's replicas, seen from the gateway as a single engine that outlives each of them.

A request goes to a replica through Ray Serve's handle, which queues, routes and counts it. If the replica dies on the
way, the request is given to another one together with what it has emitted, and goes on from there: greedy output is
the same as if nothing had happened, sampled output is drawn from the same distribution. Knows no HTTP and no text.
"""

import dataclasses
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from mtp.decode import DecodeStats, Request, StepOutput
from serve.errors import APIError
from serve.serving_engine import EngineStoppedError

MAX_REPLICAS_LOST = 3
"""A request that has seen so many replicas die is suspected of killing them."""


class RemoteEngine:
    """Has the interface of EngineLoop.submit."""

    def __init__(
        self, handle: "DeploymentHandle[Any]", on_resume: Callable[[], None] = lambda: None, *, seeds: bool = True
    ) -> None:
        """`on_resume` is told of every request that goes on on another replica.

        With `seeds` a request without a seed gets one, so that another replica draws what the first would have drawn;
        not for engines that cannot.
        """
        self._handle = handle.options(stream=True, method_name="generate")
        self._on_resume = on_resume
        self._seeds = seeds

    @asynccontextmanager
    async def submit(self, request: Request) -> AsyncIterator[AsyncIterator[list[StepOutput]]]:
        """The outputs of `request`; when the block begins a replica has taken it, and leaving it early cancels it.

        Raises:
            UsageError: the engine refuses the request.
            APIError: too many requests wait (429), or no replica lives (503).
        """
        attempt = _Attempt(self._handle, _with_seed(request) if self._seeds else request)
        await self._open(attempt)
        steps = self._steps(attempt)
        try:
            yield steps
        finally:
            await steps.aclose()

    async def _open(self, attempt: "_Attempt") -> None:
        for _ in range(MAX_REPLICAS_LOST):
            try:
                await attempt.open()
                return
            except BackPressureError:
                message = "as many requests are waiting for this model as may; try again later"
                raise APIError(429, message, code="overloaded", retry_after=1) from None
            except DeploymentUnavailableError:
                raise APIError(503, "no replica of this model is running", code="unavailable", retry_after=5) from None
            except _LOST:
                attempt.close()
        raise EngineStoppedError("replicas die while they take this request")

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
                except _LOST as error:
                    lost += 1
                    attempt.close()
                    if lost >= MAX_REPLICAS_LOST:
                        raise EngineStoppedError(f"{lost} replicas died under this request") from error
                self._on_resume()
                attempt = attempt.continued()
                await self._open(attempt)
        finally:
            attempt.close()


_LOST = (EngineStoppedError, RayError, RayServeException)
"""A replica that dies is told of in many ways: a dead or unreachable actor, a crashed worker, a lost object, a request
that was cancelled or failed "upstream". What the engine raises of a request comes as it is (`_as_raised`).
"""


class _Attempt:
    """A request on one replica, and what came of it there."""

    def __init__(self, handle: "DeploymentHandle[Any]", request: Request, before: DecodeStats | None = None) -> None:
        self._handle = handle
        self._request = request
        self._before = before or DecodeStats()
        """What earlier replicas did for it."""
        self._latest = DecodeStats()
        self._emitted: list[int] = []
        self._response: Any = None

    async def open(self) -> None:
        self._response = self._handle.remote(self._request)
        with _as_raised():
            if await anext(aiter(self._response), None) is None:
                raise EngineStoppedError("a replica ended a request before it had begun")

    async def steps(self) -> AsyncIterator[list[StepOutput]]:
        with _as_raised():
            async for steps in self._response:
                for output in steps:
                    self._emitted += [token.id for token in output.tokens]
                    self._latest = output.so_far
                    output.so_far = self._total()
                    if output.stats is not None:
                        output.stats = output.so_far
                yield steps

    def close(self) -> None:
        if self._response is not None:
            self._response.cancel()
            self._response = None

    def continued(self) -> "_Attempt":
        request = dataclasses.replace(self._request, emitted=(*self._request.emitted, *self._emitted))
        return _Attempt(self._handle, request, self._total())

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


@contextmanager
def _as_raised() -> Iterator[None]:
    """Inside, what a replica raised is raised as it was there: Ray's own message is a traceback, and no client's."""
    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
