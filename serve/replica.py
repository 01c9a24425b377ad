"""The engine deployment: one model version, decoding. Streams of steps go to the gateway (gateway.py).

Knows token ids and the engine; nothing of HTTP, text, keys or other versions.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from mtp.config import ServeConfig
from mtp.decode import Request, StepOutput
from serve.heartbeat import with_heartbeats
from serve.loading import Loaded, load


@dataclass(frozen=True)
class Description:
    """What the gateway has to know of a version to speak for it."""

    model_uri: str
    tokenizer: str
    """The content of tokenizer.json."""
    chat_template: str | None
    special_tokens: dict[str, str]
    """The tokens that a template may name, such as `eos_token`."""
    max_model_len: int
    n_future: int
    decoder: str
    """Used when a request names none."""
    engine: str = "native"
    """What decodes, by the name that `serve.engine` has for it."""


class Replica:
    """One engine."""

    def __init__(self, model_uri: str, model_name: str, config: dict[str, Any], tracking_uri: str | None) -> None:
        """Returns when the model is loaded and warm; Ray Serve sends no request before."""
        self._loaded: Loaded = load(model_uri, model_name, ServeConfig.model_validate(config), tracking_uri)

    def describe(self) -> Description:
        """What the gateway has to know."""
        loaded = self._loaded
        return Description(
            model_uri=loaded.model_uri,
            tokenizer=loaded.tokenizer.to_json(),
            chat_template=loaded.chat_template,
            special_tokens=loaded.special_tokens,
            max_model_len=loaded.engine.max_model_len,
            n_future=loaded.n_future,
            decoder=loaded.decoder,
            engine=loaded.engine_name,
        )

    async def generate(self, request: Request) -> AsyncIterator[list[StepOutput]]:
        """The steps of one request: an empty list when the engine has taken it, then what has come since the last.

        While there is nothing to tell, an empty list every HEARTBEAT_S seconds.

        Raises:
            UsageError: the engine refuses the request.
            EngineStoppedError: the engine has stopped.
        """
        async with self._loaded.engine.submit(request) as outputs:
            yield []
            async with aclosing(with_heartbeats(outputs)) as batches:
                async for steps in batches:
                    yield steps

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        if not self._loaded.engine.alive:
            raise RuntimeError("the engine has stopped")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What autoscaling.py reads."""
        return self._loaded.metrics.load()

    async def record_routing_stats(self) -> dict[str, float]:
        """What prefix_router.py reads."""
        return {"cache_use": self._loaded.engine.cache_use}
