"""Runs the choices of a request side by side: engine requests in, text deltas out. Knows nothing of JSON shapes."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from mtp.decode import DecodeStats, Request, StepOutput, Token, TokenLogprob
from serve.errors import APIError
from serve.serving_engine import EngineStoppedError
from serve.text_stream import Delta, TextStream


class Engine(Protocol):
    """What decodes: EngineLoop in this process, RemoteEngine for replicas elsewhere."""

    def submit(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[list[StepOutput]]]:
        """The outputs of a request that has been taken; leaving the block early cancels it."""


@dataclass
class Choice:
    """One completion of one prompt, as far as it has come."""

    index: int
    prompt: list[int]
    request: Request
    text: TextStream
    finish_reason: str | None = None
    stats: DecodeStats = field(default_factory=DecodeStats)
    prompt_logprobs: list[TokenLogprob | None] | None = None
    pieces: list[tuple[str, int]] = field(default_factory=list)
    outputs: AsyncIterator[list[StepOutput]] | None = None
    arrivals: list[float] = field(default_factory=list)
    """When steps came, one or more at once, by time.monotonic()."""
    taken: float | None = None
    """When a replica took it."""

    async def deltas(self) -> AsyncIterator[Delta]:
        """What becomes readable, as it comes; the choice must be open.

        Raises:
            APIError: decoding failed.
        """
        if self.outputs is None:
            raise RuntimeError("this choice was not opened")
        try:
            async for outputs in self.outputs:
                self.arrivals.append(time.monotonic())
                for output in outputs:
                    if output.error is not None:  # which nothing follows
                        self.stats = output.so_far
                        raise APIError(500, output.error, code="decoding_failed")
                    delta = self._take(output)
                    self.pieces += delta.pieces
                    yield delta
                    if delta.stopped:
                        return
        except EngineStoppedError:
            message = "the replica of this request has died, and so did others after it"
            raise APIError(503, message, code="engine_lost", retry_after=5) from None

    def _take(self, output: StepOutput) -> Delta:
        self.stats = output.so_far
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        delta = self.text.push(self._spoken(output), last=output.finish_reason is not None)
        self.finish_reason = "stop" if delta.stopped else output.finish_reason
        return delta

    def _spoken(self, output: StepOutput) -> list[Token]:
        """The tokens that are text: an id from stop_token_ids ends the text and is no part of it."""
        tokens = output.tokens
        if output.finish_reason == "stop" and tokens[-1].id in self.request.sampling.stop_ids:
            return tokens[:-1]
        return tokens


@asynccontextmanager
async def opened(choices: Sequence[Choice], engine: Engine) -> AsyncIterator[None]:
    """Submit every choice; the block begins when all are taken, and what still runs at its end is cancelled.

    Raises:
        UsageError, APIError: one was refused; the others are cancelled.
    """

    async def take(choice: Choice) -> None:
        try:
            choice.outputs = await stack.enter_async_context(engine.submit(choice.request))
            choice.taken = time.monotonic()
        except EngineStoppedError:
            raise APIError(503, "no replica could take the request", code="engine_lost", retry_after=5) from None

    async with AsyncExitStack() as stack:
        taken = await asyncio.gather(*(take(choice) for choice in choices), return_exceptions=True)
        for outcome in taken:
            if isinstance(outcome, BaseException):
                raise outcome
        yield


async def run_all(choices: Sequence[Choice]) -> None:
    """Every open choice to its end; if one fails, its error is raised."""

    async def run(choice: Choice) -> None:
        async for _ in choice.deltas():
            pass

    try:
        async with asyncio.TaskGroup() as group:
            for choice in choices:
                group.create_task(run(choice))
    except* APIError as errors:
        raise errors.exceptions[0] from None


async def stream_all(choices: Sequence[Choice]) -> AsyncGenerator[tuple[Choice, Delta], None]:
    """The deltas of all open choices in the order in which they come."""
    if len(choices) == 1:
        async for delta in choices[0].deltas():
            yield choices[0], delta
        return
    merged: asyncio.Queue[tuple[Choice, Delta] | Exception | None] = asyncio.Queue()

    async def run(choice: Choice) -> None:
        try:
            async for delta in choice.deltas():
                merged.put_nowait((choice, delta))
            merged.put_nowait(None)
        except Exception as error:
            merged.put_nowait(error)

    tasks = [asyncio.create_task(run(choice)) for choice in choices]
    try:
        left = len(tasks)
        while left:
            item = await merged.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
