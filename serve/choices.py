"""Runs the choices of a request side by side: engine requests in, text deltas out. Knows nothing of JSON shapes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from mtp.decode import DecodeStats, Request, StepOutput, Token, TokenLogprob
from serve.engine_loop import EngineLoop, EngineStoppedError
from serve.errors import APIError
from serve.text_stream import Delta, TextStream


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

    async def deltas(self, loop: EngineLoop) -> AsyncIterator[Delta]:
        """What becomes readable, step by step; leaving early cancels the engine's request.

        Raises:
            APIError: decoding failed.
        """
        try:
            async with loop.submit(self.request) as outputs:
                async for output in outputs:
                    delta = self._take(output)
                    self.pieces += delta.pieces
                    yield delta
                    if delta.stopped:
                        return
        except EngineStoppedError:
            raise APIError(503, "the engine of this replica has stopped; it is being replaced", retry_after=5) from None

    def _take(self, output: StepOutput) -> Delta:
        self.stats = output.so_far
        if output.error is not None:
            raise APIError(500, output.error, code="decoding_failed")
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


async def run_all(choices: Sequence[Choice], loop: EngineLoop) -> None:
    """Every choice to its end; if one fails, the others are cancelled."""

    async def run(choice: Choice) -> None:
        async for _ in choice.deltas(loop):
            pass

    try:
        async with asyncio.TaskGroup() as group:
            for choice in choices:
                group.create_task(run(choice))
    except* APIError as errors:
        raise errors.exceptions[0] from None


async def stream_all(choices: Sequence[Choice], loop: EngineLoop) -> AsyncIterator[tuple[Choice, Delta]]:
    """The deltas of all choices in the order in which they come."""
    if len(choices) == 1:
        async for delta in choices[0].deltas(loop):
            yield choices[0], delta
        return
    merged: asyncio.Queue[tuple[Choice, Delta] | Exception | None] = asyncio.Queue()

    async def run(choice: Choice) -> None:
        try:
            async for delta in choice.deltas(loop):
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
