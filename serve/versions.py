"""One model version as a Ray Serve application of its own: started beside what runs, and stopped when it has drained.

Two versions never share replicas, so a new one that does not load takes nothing from the old one. Knows nothing of
names, weights and traffic (deploy.py).
"""

import re
import uuid
from typing import Any

from mtp.config import ServeConfig
from mtp.errors import MTPError
from mtp.threads import SPIN
from serve.autoscaling import autoscaling_config
from serve.gateway import ENGINE_DEPLOYMENT
from serve.replica import Replica

DRAIN_S = 120.0
"""How long a replica that is stopped may finish the requests that it has."""
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Of gateways and replicas: Ray Serve's own work, its router's and ours share an event loop. With a thread for each,
every message wakes three of them one after the other. Nothing of ours blocks the loop: decoding has its own thread."""


def start_version(model_uri: str, model_name: str, config: ServeConfig, tracking_uri: str | None) -> str:
    """Start the replicas of a version; returns the application's name when all are loaded, warm and probed.

    Raises:
        MTPError: they do not come up; the sentence has the reason, and nothing is left of them.
    """
    from ray import serve

    slug = re.sub(r"[^A-Za-z0-9]+", "-", model_name).strip("-")[:30] or "model"
    app = f"{config.app_name}-{slug}-{uuid.uuid4().hex[:6]}"
    application = replica_deployment(config).bind(model_uri, model_name, config.model_dump(mode="json"), tracking_uri)
    try:
        serve.run(application, name=app, route_prefix=None, blocking=False)
    except RuntimeError:
        reason = _why(app)
        serve.delete(app)
        raise MTPError(f"{model_uri} could not be served: {reason}") from None
    except BaseException:
        serve.delete(app)
        raise
    return app


def stop_version(app: str, *, wait: bool = False) -> None:
    """Stop its replicas; each first finishes what it has. Returns at once unless told to wait for them."""
    from ray import serve

    serve.delete(app, _blocking=wait)


def replica_deployment(config: ServeConfig) -> Any:
    """The deployment of a version's replicas, ready to bind."""
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    variables = {"OMP_NUM_THREADS": str(config.num_threads), **SPIN, **ONE_LOOP}
    if config.engine == "vllm":  # else Ray kills leash.py when the replica ends, and vLLM lives on
        variables["RAY_kill_child_processes_on_worker_exit"] = "false"
    scaling = autoscaling_config(config)
    number = {"num_replicas": config.num_replicas} if scaling is None else {"autoscaling_config": scaling}
    router = {}
    if config.prefix_routing:
        router = {"request_router_config": RequestRouterConfig(request_router_class="serve.prefix_router:PrefixRouter")}
    return serve.deployment(
        Replica,
        name=ENGINE_DEPLOYMENT,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=DRAIN_S,
        health_check_period_s=2,
        health_check_timeout_s=30,
        ray_actor_options={
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "runtime_env": {"env_vars": variables},
        },
        **number,
        **router,
    )


def _why(app: str) -> str:
    """The last line of what Ray Serve says about a failed application."""
    from ray import serve

    application = serve.status().applications.get(app)
    told = [application.message, *(d.message for d in application.deployments.values())] if application else []
    lines = [line.strip() for text in told for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "Ray Serve gave no reason"
