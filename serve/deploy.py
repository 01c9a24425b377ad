"""`mtp deploy` and `mtp undeploy`: put a model behind an endpoint of the cluster that this process has joined.

Everything that can be known to fail is checked here first, so that a running endpoint is not touched by a model that
does not exist, a damaged file or a port that is taken.
"""

import logging
import socket
import time

import httpx

from mtp.checkpoint import load_model_config
from mtp.config import ServeConfig
from mtp.errors import MTPError, UsageError
from mtp.registry import fetch_model, resolve_version

READY_TIMEOUT_S = 180.0
PROXY_TIMEOUT_S = 120.0
SLACK = 64
"""Requests beyond max_ongoing + max_queued that Ray Serve lets through, so that the application itself answers 429."""


def deploy(model_uri: str, config: ServeConfig, tracking_uri: str | None = None) -> str:
    """Serve `model_uri` and wait until it answers; a running application of the same name is replaced.

    An alias is resolved once, here: all replicas serve the same version.

    Returns:
        The endpoint's URL, such as http://127.0.0.1:8000.

    Raises:
        UsageError: the model does not exist, or the port is taken.
        MTPError: the model is damaged, or the application did not become ready.
    """
    version_uri = resolve_version(model_uri, tracking_uri)
    load_model_config(fetch_model(version_uri, tracking_uri))
    url = f"http://{config.host}:{config.port}"
    _start_serve(config, url)
    _run(version_uri, name_of(model_uri), config, tracking_uri)
    _wait_until_ready(url, version_uri)
    return url


def undeploy(app_name: str = "mtp") -> bool:
    """Stop an application, and Ray Serve with it when it was the last; False if there was none."""
    from ray import serve

    if app_name not in serve.status().applications:
        return False
    serve.delete(app_name)
    if not serve.status().applications:
        serve.shutdown()
    return True


def name_of(model_uri: str) -> str:
    """The name under which clients ask for a model: the registered one, or the folder's or run's."""
    parts = [part for part in model_uri.split("/") if part]
    if model_uri.startswith("models:/"):
        return parts[1].partition("@")[0]
    return parts[1] if model_uri.startswith("runs:/") else parts[-1]


def _start_serve(config: ServeConfig, url: str) -> None:
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if not _serve_answers(url):
        _require_free(config.host, config.port)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": config.host, "port": config.port, "request_timeout_s": None},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    deadline = time.monotonic() + PROXY_TIMEOUT_S
    while not _serve_answers(url):
        if time.monotonic() > deadline:
            raise UsageError(
                f"Ray Serve does not listen on {url}: it was started on another port before; "
                f"set serve.port to that one, or `mtp undeploy` first"
            )
        time.sleep(0.1)


def _run(model_uri: str, model_name: str, config: ServeConfig, tracking_uri: str | None) -> None:
    from ray import serve

    from serve.replica import Replica

    threads = {"OMP_NUM_THREADS": str(config.num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
    limit = config.max_ongoing_requests + config.max_queued_requests + SLACK
    deployment = serve.deployment(
        Replica,
        name="replica",
        num_replicas=config.num_replicas,
        max_ongoing_requests=limit,
        max_queued_requests=limit,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=30,
        ray_actor_options={
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "runtime_env": {"env_vars": threads},
        },
    )
    application = deployment.bind(model_uri, model_name, config.model_dump(mode="json"), tracking_uri)
    try:
        serve.run(application, name=config.app_name, route_prefix="/", blocking=False)
    except RuntimeError:
        raise MTPError(f"{model_uri} could not be served: {_why(config.app_name)}") from None


def _why(app_name: str) -> str:
    """The last line of what Ray Serve says about a failed application."""
    from ray import serve

    application = serve.status().applications.get(app_name)
    told = [application.message, *(d.message for d in application.deployments.values())] if application else []
    lines = [line.strip() for text in told for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "Ray Serve gave no reason"


def _wait_until_ready(url: str, model_uri: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/ready", timeout=5)
            if answer.status_code == httpx.codes.OK and answer.json()["model_uri"] == model_uri:
                return
        except httpx.HTTPError:
            pass  # not listening yet; the deadline bounds the wait
        time.sleep(0.1)
    raise MTPError(f"{url}/ready did not answer for {model_uri} within {READY_TIMEOUT_S:.0f} s; see the Ray dashboard")


def _serve_answers(url: str) -> bool:
    """Whether a Ray Serve proxy listens there; one without applications says 503."""
    try:
        return httpx.get(f"{url}/-/healthz", timeout=2).status_code in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE)
    except httpx.HTTPError:
        return False


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"port {port} of {host} cannot be used ({error.strerror}); set serve.port to a free one"
            ) from None
