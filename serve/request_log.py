"""One JSON line a request, with the id that the client gets too; never a prompt or an output unless asked for.

`x-request-id` is put on answers by Ray Serve: the client's own if it sent one, so two requests may share it; `id` in
the log is ours and unique.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable

from ray.serve.context import _get_serve_request_context
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("mtp.access")
_FIELDS = "mtp.log"
_LONGEST = 128


class RequestLog:
    """ASGI middleware, outermost: `answered(route, status)` is told of every answer."""

    def __init__(self, app: ASGIApp, answered: Callable[[str, int], None]) -> None:
        self._app = app
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _get_serve_request_context().request_id[:_LONGEST]
        fields = scope[_FIELDS] = {"id": uuid.uuid4().hex, "request_id": request_id}
        began, status, whole = time.monotonic(), 0, False

        async def noted(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                whole = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:  # Starlette answers it further out
            status = status or 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._answered(route, status)
            entry = {
                **fields,
                "method": scope["method"],
                "path": route,
                "status": status,
                "whole": whole,
                "seconds": round(time.monotonic() - began, 4),
            }
            logger.info(json.dumps(entry))


def start_logging() -> None:
    """Let the lines leave this process, one JSON object each, through its standard error (Ray keeps it in a file)."""
    if logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def note(scope: Scope, **fields: object) -> None:
    """Add fields to the line of this request."""
    scope.setdefault(_FIELDS, {}).update(fields)
