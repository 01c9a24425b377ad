"""The endpoint as declarative files of Ray Serve name it (RayService, `serve deploy`): builders of applications.

`version` builds the replicas of one model version, `endpoint` the gateways that speak for it: what `mtp deploy` starts,
but written down in a file instead. Knows nothing about Kubernetes.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve

from mtp.config import ServeConfig
from serve.gateway import ENGINE_DEPLOYMENT, GatewayConfig, Route, ingress
from serve.versions import replica_deployment

DEPLOYMENTS = {"serve.declared:version": (ENGINE_DEPLOYMENT,), "serve.declared:endpoint": ("gateway",)}
"""The deployments of each builder, which a file may give other options."""


class VersionArguments(BaseModel):
    """`args` of an application with `import_path: serve.declared:version`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_uri: str
    """models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model or a folder that every node has."""
    model_name: str
    tracking_uri: str | None = None
    """Unset: MLFLOW_TRACKING_URI of the replicas."""
    config: ServeConfig = ServeConfig()


class EndpointArguments(BaseModel):
    """`args` of an application with `import_path: serve.declared:endpoint`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    routes: list[Route]
    """`app` is the name of the version's application in the same file."""
    keys_file: str | None = None
    """A file that `mtp keys` made; requests without one of its keys are refused. Unset: everybody may ask."""
    max_body_bytes: int = 16 * 2**20
    cors_origins: tuple[str, ...] = ()


def version(arguments: VersionArguments) -> Any:
    """The application of one model version."""
    return replica_deployment(arguments.config).bind(
        arguments.model_uri, arguments.model_name, arguments.config.model_dump(mode="json"), arguments.tracking_uri
    )


def endpoint(arguments: EndpointArguments) -> Any:
    """The application of the gateways; they answer when the versions of all routes are loaded."""
    told = GatewayConfig(
        routes=arguments.routes,
        keys_file=arguments.keys_file,
        keys_required=arguments.keys_file is not None,
        max_body_bytes=arguments.max_body_bytes,
    )
    return serve.deployment(
        ingress(arguments.cors_origins),
        name="gateway",
        max_ongoing_requests=10_000,
        graceful_shutdown_timeout_s=30,
        user_config=told.model_dump(mode="json"),
        ray_actor_options={"num_cpus": 0.1},
    ).bind()
