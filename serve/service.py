"""What the handlers of one replica share: the model's name, its tokenizer, the engine's loop, and how full it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mtp.config import ServeConfig
from mtp.decode import Engine, Request
from mtp.errors import UsageError
from mtp.tokenizer import Tokenizer
from serve.engine_loop import EngineLoop
from serve.errors import APIError, usage_error
from serve.metrics import Metrics


@dataclass
class Service:
    """One loaded model, ready to answer."""

    model_name: str
    model_uri: str
    tokenizer: Tokenizer
    engine: Engine
    loop: EngineLoop
    config: ServeConfig
    metrics: Metrics
    created: int = field(default_factory=lambda: int(time.time()))
    active: int = 0
    """Choices that are being generated."""

    def require_model(self, name: str | None) -> None:
        """404 for another model's name; none means the one there is."""
        if name not in (None, self.model_name):
            raise APIError(
                404,
                f"the model {name!r} does not exist; this endpoint serves {self.model_name!r}",
                param="model",
                code="model_not_found",
            )

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self.tokenizer.encode(text)

    def check(self, requests: list[Request]) -> None:
        """Refuse what the engine would refuse, and everything while too much is going on."""
        try:
            for request in requests:
                self.engine.check(request)
        except UsageError as error:
            raise usage_error(error) from None
        limit = self.config.max_ongoing_requests + self.config.max_queued_requests
        if self.active and self.active + len(requests) > limit:
            raise APIError(
                429,
                f"{self.active} completions are running or queued and the limit is {limit}; try again later",
                code="overloaded",
                retry_after=1,
            )

    @contextmanager
    def generating(self, choices: int) -> Iterator[None]:
        """While these choices are being generated."""
        self.active += choices
        try:
            yield
        finally:
            self.active -= choices
