"""Ray Serve's HTTP proxy: on which address it listens, and whether it does. Knows nothing of models."""

import ipaddress
import logging
import socket
import time

import httpx

from mtp.config import ServeConfig
from mtp.errors import UsageError

PROXY_TIMEOUT_S = 120.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def start_proxy(config: ServeConfig, host: str) -> str:
    """Start Ray Serve on the cluster, or find it listening there; returns its URL.

    Raises:
        UsageError: the port is taken, or Ray Serve listens on another one.
    """
    from ray import serve

    url = f"http://{host}:{config.port}"
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if not _answers(url):
        _require_free(host, config.port)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": host, "port": config.port, "request_timeout_s": None},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    deadline = time.monotonic() + PROXY_TIMEOUT_S
    while not _answers(url):
        if time.monotonic() > deadline:
            raise UsageError(
                f"Ray Serve does not listen on {url}: it was started on another port before; "
                f"set serve.port to that one, or `mtp undeploy` first"
            )
        time.sleep(0.1)
    return url


def _answers(url: str) -> bool:
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
