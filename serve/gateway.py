"""The ingress deployment: speaks HTTP for every served model, and hands tokens on to the replicas of its version.

What it serves is told by `reconfigure` (Ray Serve's user_config), so that a new version, another weight or a model more
takes effect in running gateways without a restart or a refused request. Loads no model.
"""

from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve

from mtp.config import ServeConfig
from mtp.decode import DecodeStats
from serve.api_keys import KeyStore
from serve.app import Settings, create_app
from serve.remote_engine import RemoteEngine
from serve.request_log import start_logging
from serve.service import ServedModel, Service
from serve.tracing import Tracer

ENGINE_DEPLOYMENT = "replica"


class Route(BaseModel):
    """One served version: under which name, by which Ray Serve application, with which share of the traffic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    app: str
    uri: str
    weight: float = 1.0
    follows: str | None = None
    """The URI with an alias that this version was deployed for."""
    tracking_uri: str | None = None
    config: ServeConfig = ServeConfig()
    card: dict[str, Any] = {}


class GatewayConfig(BaseModel):
    """All that a gateway is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    routes: list[Route] = []
    notes: dict[str, str] = {}
    keys_file: str | None = None
    keys_required: bool = False
    max_body_bytes: int = 16 * 2**20
    log_prompts: bool = False
    traces: str | None = None


class Gateway:
    """One process that speaks HTTP."""

    def __init__(self) -> None:
        start_logging()
        self.service = Service()
        self.settings = Settings()
        self._config = GatewayConfig()

    async def reconfigure(self, told: dict[str, Any]) -> None:
        """Take up new routes; a version that is served already keeps its counts, and its requests go on."""
        config = GatewayConfig.model_validate(told)
        known = {model.app: model for versions in self.service.models.values() for _, model in versions}
        models: dict[str, list[tuple[float, ServedModel]]] = {}
        for route in config.routes:
            model = known.get(route.app) or await self._meet(route)
            models.setdefault(route.name, []).append((route.weight, model))
        self._config = config
        self.settings.store = KeyStore(Path(config.keys_file) if config.keys_file else None)
        self.settings.keys_required = config.keys_required
        self.settings.max_body_bytes = config.max_body_bytes
        self.settings.log_prompts = config.log_prompts
        self.service.notes = dict(config.notes)
        if self.service.tracer.target != config.traces:
            self.service.tracer.close()
            self.service.tracer = Tracer(config.traces)
        self.service.models = models

    def told(self) -> dict[str, Any]:
        """The configuration that holds now."""
        return self._config.model_dump(mode="json")

    def take_telemetry(self) -> dict[str, DecodeStats]:
        """By version: what decoding did since this was asked last."""
        found: dict[str, DecodeStats] = {}
        for versions in self.service.models.values():
            for _, model in versions:
                found.setdefault(model.uri, DecodeStats()).add(model.take_telemetry())
        return found

    async def _meet(self, route: Route) -> ServedModel:
        handle = serve.get_deployment_handle(ENGINE_DEPLOYMENT, route.app)
        description = await handle.describe.remote()
        self.service.metrics.serves(route.name, route.uri)
        resumed = partial(self.service.metrics.resumed, route.name, route.uri)
        engine = RemoteEngine(handle, on_resume=resumed, seeds=description.engine == "native")
        return ServedModel(route.name, route.app, route.config, description, engine, route.card)


def ingress(cors_origins: tuple[str, ...]) -> type:
    """The gateway as a class that Ray Serve can deploy; the application is built in its process."""

    def build() -> FastAPI:
        return _build_app(cors_origins)

    ingress_class: type = serve.ingress(build)(Gateway)  # a plain function, or Ray Serve takes it for the application
    return ingress_class


def _build_app(cors_origins: tuple[str, ...]) -> FastAPI:
    def gateway() -> Any:
        return serve.get_replica_context().servable_object

    return create_app(lambda: gateway().service, lambda: gateway().settings, cors_origins)
