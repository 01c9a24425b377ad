"""The HTTP application: paths, bodies, statuses. What an answer holds is made in completions.py and chat.py."""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from serve import errors
from serve.body_limit import BodyLimit
from serve.chat import chat
from serve.completions import complete
from serve.errors import APIError
from serve.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest, Wire
from serve.service import Service

Body = TypeVar("Body", bound=Wire)


def create_app(service: Callable[[], Service]) -> FastAPI:
    """The application of a replica; `service` gives what it has loaded."""
    app = FastAPI(title="mtp-platform", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit)
    errors.install(app)
    _add_generation(app, service)
    _add_tokens(app, service)
    _add_state(app, service)
    return app


def _add_generation(app: FastAPI, service: Callable[[], Service]) -> None:
    @app.post("/v1/completions", **_takes(CompletionRequest))
    async def completions(request: Request) -> Response:
        return await complete(service(), await _read(request, CompletionRequest))

    @app.post("/v1/chat/completions", **_takes(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        return await chat(service(), await _read(request, ChatRequest))


def _add_tokens(app: FastAPI, service: Callable[[], Service]) -> None:
    @app.post("/tokenize", **_takes(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        body = await _read(request, TokenizeRequest)
        service().require_model(body.model)
        ids = service().encode(body.prompt)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": service().engine.max_model_len})

    @app.post("/detokenize", **_takes(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        body = await _read(request, DetokenizeRequest)
        service().require_model(body.model)
        return JSONResponse({"prompt": service().tokenizer.decode(body.tokens)})


def _add_state(app: FastAPI, service: Callable[[], Service]) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(service())]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service().require_model(name)
        return _card(service())

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if not service().loop.alive:
            raise APIError(503, "the engine has stopped; the replica is being replaced", retry_after=5)
        return {"status": "ready", "model": service().model_name, "model_uri": service().model_uri}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service().metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _card(service: Service) -> dict[str, Any]:
    return {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "mtp-platform",
        "root": service.model_uri,
        "max_model_len": service.engine.max_model_len,
    }


async def _read(request: Request, model: type[Body]) -> Body:
    """The body as `model`. pydantic's own parser refuses invalid UTF-8, lone surrogates and endless nesting."""
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise errors.invalid(error, model) from None


def _takes(model: type[Wire]) -> dict[str, Any]:
    """For the OpenAPI document: the body is read by hand, so FastAPI does not see its schema."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    content = {"application/json": {"schema": schema}}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}
