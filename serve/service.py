"""What the handlers of a gateway share: the models by name, and one request's way from limits to metrics."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from mtp.config import ServeConfig
from mtp.decode import DecodeStats
from mtp.tokenizer import Tokenizer
from serve.api_keys import APIKey
from serve.chat_template import ChatTemplate
from serve.choices import Choice, Engine
from serve.errors import APIError
from serve.gateway_metrics import GatewayMetrics
from serve.limits import KeyLimits
from serve.replica import Description
from serve.tracing import Tracer


@dataclass
class ServedModel:
    """One version, ready to answer under a name."""

    name: str
    app: str
    """Of Ray Serve: its replicas."""
    config: ServeConfig
    description: Description
    engine: Engine
    card: dict[str, Any] = field(default_factory=dict)
    """What the registry says of the version."""
    created: int = field(default_factory=lambda: int(time.time()))
    telemetry: DecodeStats = field(default_factory=DecodeStats)
    """What decoding did since it was last taken (rollout.py writes it to the registry)."""

    def __post_init__(self) -> None:
        self.tokenizer = Tokenizer.from_json(self.description.tokenizer)
        self.template = ChatTemplate(self.description.chat_template, self.description.special_tokens)
        self.max_model_len = self.description.max_model_len

    @property
    def uri(self) -> str:
        """The version's URI."""
        return self.description.model_uri

    def take_telemetry(self) -> DecodeStats:
        """The counts since the last time."""
        taken, self.telemetry = self.telemetry, DecodeStats()
        return taken


class Service:
    """Every model that a gateway answers for."""

    def __init__(self) -> None:
        self.models: dict[str, list[tuple[float, ServedModel]]] = {}
        """By name: versions with their shares of the traffic, the main one first."""
        self.limits = KeyLimits()
        self.metrics = GatewayMetrics()
        self.tracer = Tracer()
        self.notes: dict[str, str] = {}
        """By name: why the newest version is not served, where that is so."""

    def model(self, name: str | None) -> ServedModel:
        """The version that takes a request for `name`; none means the only model there is.

        Raises:
            APIError: 404 for a name that is not served, 503 while none is.
        """
        if not self.models:
            raise APIError(503, "no model is served yet; try again shortly", code="unavailable", retry_after=5)
        if name is None:
            if len(self.models) > 1:
                raise APIError(400, f"model: name one of {', '.join(self.models)}", param="model")
            name = next(iter(self.models))
        versions = self.models.get(name)
        if versions is None:
            known = ", ".join(map(repr, self.models))
            raise APIError(
                404,
                f"the model {name!r} does not exist; this endpoint serves {known}",
                param="model",
                code="model_not_found",
            )
        if len(versions) == 1:
            return versions[0][1]
        return random.choices([model for _, model in versions], [weight for weight, _ in versions])[0]

    @asynccontextmanager
    async def generating(
        self, model: ServedModel, choices: Sequence[Choice], key: APIKey | None
    ) -> AsyncIterator[None]:
        """While these choices are being generated: limits before, metrics and charges after, a deadline throughout.

        Raises:
            APIError: 429 beyond the key's limits, 408 when the time is over.
        """
        for choice in choices:
            _check_length(model, choice)
        self.limits.admit(key, sum(len(prompt) for prompt in _prompts(choices)))
        with self._counted(model, choices, key):
            try:
                async with asyncio.timeout(model.config.request_timeout_s):
                    yield
            except TimeoutError:
                raise APIError(
                    408, f"the request took longer than {model.config.request_timeout_s:g} s", code="timeout"
                ) from None

    @contextmanager
    def _counted(self, model: ServedModel, choices: Sequence[Choice], key: APIKey | None) -> Iterator[None]:
        with (
            self.metrics.request(model.name, model.uri, choices),
            self.tracer.request(model.name, model.uri, choices),
        ):
            try:
                yield
            finally:
                self.limits.charge_output(key, sum(choice.text.tokens for choice in choices))
                for choice in choices:
                    model.telemetry.add(choice.stats)


def _prompts(choices: Sequence[Choice]) -> list[list[int]]:
    return list({id(choice.prompt): choice.prompt for choice in choices}.values())


def _check_length(model: ServedModel, choice: Choice) -> None:
    cap, wanted = model.config.max_completion_tokens, choice.request.sampling.max_tokens
    if cap is not None and wanted > cap:
        raise APIError(400, f"max_tokens is {wanted}; this endpoint allows at most {cap}", param="max_tokens")
