"""The HTTP application: paths, bodies, statuses. What an answer holds is made in completions.py and chat.py."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import ValidationError
from starlette.staticfiles import StaticFiles

from serve import errors, request_log
from serve.access import Access, api_key
from serve.api_keys import KeyStore
from serve.body_limit import SizeLimits
from serve.chat import chat
from serve.completions import complete
from serve.errors import APIError
from serve.metrics_page import metrics_page
from serve.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, Generating, TokenizeRequest, Wire
from serve.request_log import RequestLog
from serve.service import ServedModel, Service
from serve.tracing import Arrivals

Body = TypeVar("Body", bound=Wire)
STATIC = Path(__file__).parent / "static"


class Settings:
    """What middlewares read while requests come; a gateway that is reconfigured changes it."""

    def __init__(self) -> None:
        self.max_body_bytes = 16 * 2**20
        self.keys_required = False
        self.log_prompts = False
        self.store = KeyStore()


def create_app(
    service: Callable[[], Service], settings: Callable[[], Settings], cors_origins: Sequence[str] = ()
) -> FastAPI:
    """The application of a gateway; `service` gives the models that it has now."""
    app = FastAPI(title="mtp-platform", docs_url=None, redoc_url=None)
    app.add_middleware(SizeLimits, max_body_bytes=lambda: settings().max_body_bytes)
    app.add_middleware(Access, store=lambda: settings().store, required=lambda: settings().keys_required)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(RequestLog, answered=lambda route, status: service().metrics.answered(route, status))
    app.add_middleware(Arrivals)
    errors.install(app)
    _add_generation(app, service, settings)
    _add_tokens(app, service)
    _add_state(app, service)
    _add_page(app)
    return app


def _add_generation(app: FastAPI, service: Callable[[], Service], settings: Callable[[], Settings]) -> None:
    @app.post("/v1/completions", **_takes(CompletionRequest))
    async def completions(request: Request) -> Response:
        body = await _read(request, CompletionRequest)
        _note(request, body, settings().log_prompts and body.prompt)
        return _told(await complete(service(), body, api_key(request)), body)

    @app.post("/v1/chat/completions", **_takes(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        body = await _read(request, ChatRequest)
        _note(request, body, settings().log_prompts and [message.text for message in body.messages])
        return _told(await chat(service(), body, api_key(request)), body)


def _add_tokens(app: FastAPI, service: Callable[[], Service]) -> None:
    @app.post("/tokenize", **_takes(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        body = await _read(request, TokenizeRequest)
        model = service().model(body.model)
        ids = model.tokenizer.encode(body.prompt)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": model.max_model_len})

    @app.post("/detokenize", **_takes(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        body = await _read(request, DetokenizeRequest)
        return JSONResponse({"prompt": service().model(body.model).tokenizer.decode(body.tokens)})


def _add_state(app: FastAPI, service: Callable[[], Service]) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(service(), name) for name in service().models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _card(service(), service().model(name).name)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, Any]:
        if not service().models:
            raise APIError(503, "no model is served yet; try again shortly", code="unavailable", retry_after=5)
        first = next(iter(service().models.values()))[0][1]
        versions = {name: [one.uri for _, one in found] for name, found in service().models.items()}
        return {"status": "ready", "model": first.name, "model_uri": first.uri, "models": versions}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await metrics_page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return FileResponse(STATIC / "playground.html")

    app.mount("/static", StaticFiles(directory=STATIC))


def _card(service: Service, name: str) -> dict[str, Any]:
    versions = service.models[name]
    main: ServedModel = versions[0][1]
    found = {
        "id": name,
        "object": "model",
        "created": main.created,
        "owned_by": "mtp-platform",
        "root": main.uri,
        "max_model_len": main.max_model_len,
        "n_future": main.description.n_future,
        "decoder": main.description.decoder,
        "engine": main.description.engine,
        "versions": [{"uri": one.uri, "weight": weight} for weight, one in versions],
        "card": main.card,
    }
    if name in service.notes:
        found["note"] = service.notes[name]
    return found


def _note(request: Request, body: Generating, prompt: object) -> None:
    key = api_key(request)
    fields: dict[str, object] = {"model": body.model, "stream": bool(body.stream)}
    if key is not None:
        fields["key"] = key.name
    if prompt:
        fields["prompt"] = prompt
    request_log.note(request.scope, **fields)


def _told(response: Response, body: Generating) -> Response:
    """Name the fields that were passed over."""
    names = [name for name in body.ignored if name.isascii() and name.isprintable()]
    if names:
        response.headers["x-ignored-fields"] = ", ".join(names)[:1000]
    return response


async def _read(request: Request, model: type[Body]) -> Body:
    """The body as `model`. pydantic's own parser refuses invalid UTF-8, lone surrogates and endless nesting."""
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise errors.invalid(error, model) from None


def _takes(model: type[Wire]) -> dict[str, Any]:
    """For the OpenAPI document: the body is read by hand, so FastAPI does not see its schema."""
    schema = model.model_json_schema()
    content = {"application/json": {"schema": _inlined(schema, schema.pop("$defs", {}))}}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with `$ref`s replaced by what they stand for (there are no cycles)."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items()}
