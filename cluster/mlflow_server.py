"""How the MLflow server (tracking and registry) is started on the loopback address, and when it counts as ready.

Two processes instead of its default dozen: one web worker, no job runner. Its database and files lie in the state
folder; files are served through it, so that a client needs its URL alone.
"""

import os
import sys
from pathlib import Path

import httpx

from cluster.ports import LOOPBACK
from cluster.state import QUIET
from mtp.config import ClusterConfig


def command(config: ClusterConfig, folder: Path) -> list[str]:
    """The command line of a server whose `mlflow.db` and `artifacts` lie in `folder`."""
    arguments = {
        "backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}",
        "artifacts-destination": folder / "artifacts",
        "host": LOOPBACK,
        "port": config.mlflow_port,
        "workers": 1,
    }
    return [sys.executable, "-m", "mlflow", "server", *(f"--{name}={value}" for name, value in arguments.items())]


def environment() -> dict[str, str]:
    """Ours without variables that would point the server at another one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**inherited, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **QUIET}


def is_ready(url: str) -> bool:
    """Whether it answers."""
    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.HTTPError:
        return False
