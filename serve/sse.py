"""Server-sent events: `data: {...}` for each chunk, an error as an event with an `error` key, `data: [DONE]` last."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from serve.errors import APIError


def event_stream(chunks: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """An answer that sends each chunk as it comes. After an error there is no [DONE]."""

    async def events() -> AsyncIterator[str]:
        try:
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"
            yield "data: [DONE]\n\n"
        except APIError as error:
            yield f"data: {json.dumps(error.body())}\n\n"

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)
