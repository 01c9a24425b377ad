"""Refuses bodies that are too large, by what is announced and by what arrives, before anything parses them."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import APIError

MAX_BODY_BYTES = 16 * 2**20


class BodyLimit:
    """ASGI middleware: 413 beyond MAX_BODY_BYTES."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            await _too_large().response()(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > MAX_BODY_BYTES:
                raise _too_large()
            return message

        await self._app(scope, counted, send)


def _too_large() -> APIError:
    return APIError(413, f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB")
