"""The one deployment: loads a model, warms it up, and answers HTTP from the process that decodes.

Streams do not cross to a second deployment: that costs a factor of ten in tokens a second (docs/serving.md).
"""

from typing import Any

from fastapi import FastAPI
from ray import serve

from mtp.config import ServeConfig
from serve.app import create_app
from serve.loading import load_service


def _build_app() -> FastAPI:
    return create_app(lambda: serve.get_replica_context().servable_object.service)


@serve.ingress(_build_app)
class Replica:
    """One engine and its ingress."""

    def __init__(self, model_uri: str, model_name: str, config: dict[str, Any], tracking_uri: str | None) -> None:
        """Returns when the model is loaded and warm; Ray Serve sends no request before."""
        self.service = load_service(model_uri, model_name, ServeConfig.model_validate(config), tracking_uri)

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        if not self.service.loop.alive:
            raise RuntimeError("the engine's thread has ended")
