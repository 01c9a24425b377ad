"""Errors in OpenAI's shape: {"error": {message, type, param, code}}, with the status that OpenAI's clients expect."""

import difflib
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mtp.errors import UsageError


class APIError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        kinds = {429: "rate_limit_error", 503: "service_unavailable_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        message = self.message.encode("utf-8", "replace").decode("utf-8")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else None
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def invalid(error: ValidationError, model: type[BaseModel]) -> APIError:
    """pydantic's first complaint as one sentence with the field's name; never quotes what was sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return APIError(400, f"the body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    place = ".".join(str(part) for part in first["loc"][:3])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), list(model.model_fields), 1)
        message = "unknown field" + (f"; did you mean {near[0]}?" if near else "")
    if not place and ":" in message:
        place, _, message = message.partition(": ")
    return APIError(
        400, f"{place}: {message}" if place else message, param=str(first["loc"][0]) if first["loc"] else place
    )


def usage_error(error: UsageError) -> APIError:
    """What the engine or the tokenizer refuses."""
    text = str(error)
    too_long = "of prompt and output together" in text
    return APIError(400, text, code="context_length_exceeded" if too_long else None)


def install(app: FastAPI) -> None:
    """Let every error of `app` leave in this shape."""

    @app.exception_handler(APIError)
    async def _api_error(_: Request, error: APIError) -> JSONResponse:
        return error.response()

    @app.exception_handler(UsageError)
    async def _usage_error(_: Request, error: UsageError) -> JSONResponse:
        return usage_error(error).response()

    @app.exception_handler(HTTPException)
    async def _http_exception(_: Request, error: HTTPException) -> JSONResponse:
        return APIError(error.status_code, str(error.detail)).response()

    @app.exception_handler(ClientDisconnect)
    async def _left(_: Request, error: ClientDisconnect) -> JSONResponse:
        """Nobody reads it, but the log has a status that is not a fault of ours."""
        return APIError(400, "the client left before its body had come").response()

    @app.exception_handler(Exception)
    async def _own_error(_: Request, error: Exception) -> JSONResponse:
        """A fault of ours; Starlette raises it again when this is sent, and Ray Serve logs it."""
        message = f"the gateway has failed at this request ({type(error).__name__}); its log tells more"
        return APIError(500, message, code="internal_error").response()
