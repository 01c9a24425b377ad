"""Who may ask: the API key of a request, and the headers that browsers are told to obey.

Knows the key store; what a key may use is counted by limits.py.
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtp.errors import MTPError
from serve.api_keys import APIKey, KeyStore
from serve.errors import APIError

OPEN_PATHS = frozenset({"/", "/health", "/ready"})
"""Probes, and a page that holds no secret; everything else needs a key once there is one."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", PAGE_POLICY.encode()),
)
_KEY = "mtp.api_key"


class Access:
    """ASGI middleware: 401 without a key where keys are configured (or required), security headers on every answer."""

    def __init__(self, app: ASGIApp, store: Callable[[], KeyStore], required: Callable[[], bool]) -> None:
        """`required`: keys are asked for even when none is left (an endpoint that others can reach)."""
        self._app = app
        self._store = store
        self._required = required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key and pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        try:
            scope[_KEY] = self._admit(scope)
        except APIError as error:
            await error.response()(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _admit(self, scope: Scope) -> APIKey | None:
        if _is_open(scope):
            return None
        store = self._store()
        try:
            if not self._required() and not store.configured():
                return None
            kind, _, secret = _header(scope, b"authorization").partition(" ")
            key = store.find(secret.strip()) if kind.lower() == "bearer" else None
        except MTPError as error:
            raise APIError(503, str(error), retry_after=60) from None
        if key is None:
            raise APIError(
                401,
                "give a valid API key, as the header Authorization: Bearer KEY; `mtp keys add NAME` makes one",
                code="invalid_api_key",
            )
        return key


def api_key(request: Request) -> APIKey | None:
    """The key that a request came with; None where none is needed."""
    key: APIKey | None = request.scope.get(_KEY)
    return key


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return path in OPEN_PATHS or path.startswith("/static/") or scope["method"] == "OPTIONS"


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
