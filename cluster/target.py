"""Which cluster a command means: the local one, or any other by the address of its job server and a token.

The token of another cluster comes from Ray's own variables, never from a command line. Knows nothing about jobs.
"""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cluster.local import require_state
from mtp.config import home
from mtp.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A job server, and what a job sent there is told."""

    dashboard_url: str
    token: str = field(repr=False)
    token_source: str
    """For sentences about it."""
    variables: dict[str, str]
    """For the environment of jobs."""
    cure: str
    """What to do if the token is refused."""
    risk: str | None = None
    """What a user should know before using it."""


def target(address: str | None = None) -> Target:
    """The cluster whose job server is at `address`, such as http://head:8265; None: the local one.

    Raises:
        UsageError: the address is none, or there is no token for it.
        MTPError: no local cluster is running.
    """
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    if address is None:
        state = require_state()
        variables = {"MTP_HOME": str(home()), "MLFLOW_TRACKING_URI": chosen or state.mlflow_url}
        cure = "start the cluster anew with `mtp down` and `mtp up`"
        return Target(state.dashboard_url, state.token(), str(state.token_file), variables, cure)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--address {address} is no job server's URL; give one such as http://localhost:8265")
    token, source = _token(address)
    risk = None
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        risk = (
            f"{address} is not encrypted: whoever reads along gets the token, and with it can run any code on the "
            f"cluster; go through a tunnel (kubectl port-forward, ssh -L) or https"
        )
    variables = {"MLFLOW_TRACKING_URI": chosen} if chosen else {}
    return Target(address.rstrip("/"), token, source, variables, "ask who runs the cluster for its token", risk)


def is_loopback(host: str) -> bool:
    """Whether only this machine is meant by `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(address: str) -> tuple[str, str]:
    """The token and where it came from."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path:
        raise UsageError(
            f"no token for {address}; put it into a file that only you can read, and set RAY_AUTH_TOKEN_PATH to it"
        )
    try:
        return Path(path).expanduser().read_text().strip(), path
    except OSError as error:
        raise UsageError(f"cannot read the token in RAY_AUTH_TOKEN_PATH {path}: {error.strerror}") from None
