"""Server-sent events: `data: {...}` for each chunk, an error as an event with an `error` key, `data: [DONE]` last."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse

from mtp.errors import UsageError
from serve.errors import APIError, usage_error


async def event_stream(chunks: AsyncGenerator[dict[str, Any], None]) -> StreamingResponse:
    """An answer that sends each chunk as it comes; an error before the first one is raised, and gets its own status.

    After an error there is no [DONE].
    """
    first = await anext(chunks)

    async def events() -> AsyncIterator[str]:
        async with aclosing(chunks):
            try:
                yield _event(first)
                async for chunk in chunks:
                    yield _event(chunk)
                yield "data: [DONE]\n\n"
            except APIError as error:
                yield _event(error.body())
            except UsageError as error:
                yield _event(usage_error(error).body())

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'), allow_nan=False)}\n\n"
