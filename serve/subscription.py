"""The way of one request's outputs from the engine to its handler, in batches that do not come too often.

Every message between processes costs about a millisecond of the machine, more than a small model's token. So the first
and the last output are handed over at once, and those between at most once an interval. Knows asyncio; nothing of the
engine's thread, HTTP or text.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable

from mtp.decode import StepOutput
from serve.serving_engine import EngineStoppedError

MESSAGES_PER_SECOND = 100
"""That all streams of a replica send together, where none waits longer than LONGEST_INTERVAL_S."""
LONGEST_INTERVAL_S = 0.1


def interval(streams: int) -> float:
    """Seconds between two messages of one stream, when so many are open."""
    return min(streams / MESSAGES_PER_SECOND, LONGEST_INTERVAL_S)


class Subscription:
    """The outputs of one request, in order. All methods belong to the handler's own event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: Callable[[], float] = lambda: 0.0) -> None:
        """`interval_s` is asked for after every message."""
        self.loop = loop
        self._interval_s = interval_s
        self._arrived: list[StepOutput | None] = []
        self._ready = asyncio.Event()
        self._due = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def deliver(self, output: StepOutput | None) -> None:
        """Take an output; None: the engine died."""
        self._arrived.append(output)
        if output is None or output.finish_reason is not None or self.loop.time() >= self._due:
            self._ready.set()
        elif self._alarm is None:
            self._alarm = self.loop.call_at(self._due, self._ready.set)

    async def outputs(self) -> AsyncGenerator[list[StepOutput], None]:
        """What has come since the last time, until the output with a finish reason.

        Raises:
            EngineStoppedError: the engine's thread has ended.
        """
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                self._silence()
                self._due = self.loop.time() + self._interval_s()
                arrived, self._arrived = self._arrived, []
                steps = [output for output in arrived if output is not None]
                if steps:
                    yield steps
                    if steps[-1].finish_reason is not None:
                        return
                if len(steps) < len(arrived):
                    raise EngineStoppedError("the engine has stopped")
        finally:
            self._silence()

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
