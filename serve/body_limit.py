"""Refuses what is too large before anything parses it: bodies (413), by what is announced and by what arrives, and
headers (431)."""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import APIError

MAX_HEADER_BYTES = 32 * 2**10


class SizeLimits:
    """ASGI middleware; `max_body_bytes` gives the limit that holds now."""

    def __init__(self, app: ASGIApp, max_body_bytes: Callable[[], int]) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            error = APIError(431, f"the headers are larger than {MAX_HEADER_BYTES // 2**10} KiB")
            await error.response()(scope, receive, send)
            return
        limit = self._max_body_bytes()
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            await _too_large(limit).response()(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> APIError:
    return APIError(413, f"the body is larger than {limit:,} bytes", code="body_too_large")
