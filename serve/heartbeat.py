"""A stream from a replica to the gateway is never silent for long, so that silence means that the replica is lost.

Ray Serve's gRPC tells at once of a process that dies, but of a host whose cable is cut, or of a process that is frozen,
only after minutes. Knows nothing of engines, requests or Ray.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from mtp.decode import StepOutput

HEARTBEAT_S = 5.0
"""How often a stream that has nothing to send says so."""
SILENCE_LIMIT_S = 30.0
"""How long a stream may send nothing: six heartbeats, of which a busy machine may be late with a few."""


async def with_heartbeats(
    outputs: AsyncGenerator[list[StepOutput], None], interval_s: float = HEARTBEAT_S
) -> AsyncGenerator[list[StepOutput], None]:
    """All that `outputs` gives, as it comes, and an empty list whenever nothing has come for `interval_s` seconds.

    Closing it closes `outputs`, also one that is waiting for its engine.
    """
    async with aclosing(outputs):
        while True:
            # One task until it has come: a time limit on `anext` itself would end `outputs` when it is over.
            coming = asyncio.ensure_future(anext(outputs, None))
            try:
                while not (await asyncio.wait([coming], timeout=interval_s))[0]:
                    yield []
            finally:
                if not coming.done():  # the consumer has left, and a generator that waits cannot be closed
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
            steps = coming.result()
            if steps is None:
                return
            yield steps
