"""The way of one request's outputs from the engine to its handler.

The engine's thread keeps them until they are to be sent (engine_loop.py says when); then they go to the handler's event
loop together, and are joined to as few as may be: each costs time to write, to read and to turn into text. Knows
asyncio; nothing of the engine, HTTP or text.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from mtp.decode import StepOutput
from serve.serving_engine import EngineStoppedError


class Subscription:
    """The outputs of one request, in order. `keep` and `take` are the engine's thread's, the rest is the handler's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.urgent = True
        """What is kept must not wait: it is the first output, or the last."""
        self._kept: list[StepOutput] = []
        self._arrived: list[StepOutput] = []
        self._stopped = False
        self._ready = asyncio.Event()

    def keep(self, output: StepOutput) -> None:
        """An output has come."""
        self._kept.append(output)
        self.urgent |= output.finish_reason is not None

    def take(self) -> list[StepOutput]:
        """What has come since the last time, with counts that do not grow: a later step would while they are sent."""
        kept, self._kept, self.urgent = self._kept, [], False
        if kept:
            so_far = kept[-1].so_far.copy()
            for output in kept:
                output.so_far = so_far
        return kept

    def deliver(self, outputs: Sequence[StepOutput], *, stopped: bool = False) -> None:
        """Hand over what was taken; `stopped`: the engine died, and nothing follows."""
        self._arrived += outputs
        self._stopped |= stopped
        self._ready.set()

    async def outputs(self) -> AsyncGenerator[list[StepOutput], None]:
        """What has come since the last time, until the output with a finish reason.

        Raises:
            EngineStoppedError: the engine's thread has ended.
        """
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self._arrived:
                arrived, self._arrived = joined(self._arrived), []
                yield arrived
                if arrived[-1].finish_reason is not None:
                    return
            if self._stopped and not self._arrived:
                raise EngineStoppedError("the engine has stopped")


def joined(outputs: Sequence[StepOutput]) -> list[StepOutput]:
    """Outputs of one request as one; an error, which nothing follows, stays one of its own."""
    good = [output for output in outputs if output.error is None]
    failed = [output for output in outputs if output.error is not None]
    if len(good) < 2:
        return [*good, *failed]
    last = good[-1]
    whole = StepOutput(
        last.request_id,
        [token for output in good for token in output.tokens],
        last.finish_reason,
        prompt_logprobs=next((one.prompt_logprobs for one in good if one.prompt_logprobs is not None), None),
        stats=last.stats,
        so_far=last.so_far,
    )
    return [whole, *failed]
