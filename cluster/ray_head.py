"""How a Ray head with its job server is started on the loopback address, and when it counts as ready."""

import json
import os
import secrets
import sys
from pathlib import Path

import httpx
import psutil

from cluster.loopback import HOOK
from cluster.ports import LOOPBACK, free_ports
from cluster.processes import members, start_time
from cluster.state import EQUAL_WORKERS, LOOPBACK_ONLY, QUIET, SERVE_OVER_GRPC, ClusterState, Daemon, write_private
from mtp.config import ClusterConfig

SERVERS = {"gcs": "gcs_server", "raylet": "raylet", "dashboard": "dashboard.py"}
"""How each server is recognised: the end of one of its first arguments."""


def command(config: ClusterConfig, temp_dir: Path) -> list[str]:
    """The command line; no secret is on it. Ports that nobody asks for are drawn, so that clusters do not collide."""
    client_port, agent_port = free_ports(2)
    arguments = {
        "port": config.ray_port,
        "node-ip-address": LOOPBACK,
        "dashboard-host": LOOPBACK,
        "dashboard-port": config.dashboard_port,
        "dashboard-agent-listen-port": agent_port,
        "ray-client-server-port": client_port,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "object-store-memory": config.object_store_mb * 2**20,
        "temp-dir": temp_dir,
        "log-style": "record",
    }
    if config.num_cpus is not None:
        arguments["num-cpus"] = config.num_cpus
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats", *flags]


def environment(token_file: Path, mlflow_url: str) -> dict[str, str]:
    """Of the head and, through it, of every worker: token, loopback only, our Python and source folders found."""
    autoscaler_port, dashboard_metrics_port = free_ports(2)
    inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return {
        **inherited,
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or mlflow_url,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "AUTOSCALER_METRIC_PORT": str(autoscaler_port),
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics_port),
        "PYTHONPATH": os.pathsep.join(source_roots() + [path for path in [os.environ.get("PYTHONPATH")] if path]),
        "RAY_raylet_start_wait_time_s": "120",  # half a minute by default, which a busy machine does not make
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a killed proxy refuses clients until Serve has noticed
        **HOOK,
        **LOOPBACK_ONLY,
        **SERVE_OVER_GRPC,
        **EQUAL_WORKERS,
        **QUIET,
    }


def source_roots() -> list[str]:
    """The folders that hold `cluster` (with `jobs`, `serve`) and `mtp`; the same one when installed from a wheel."""
    import cluster
    import mtp

    return list(dict.fromkeys(str(Path(package.__path__[0]).resolve().parent) for package in (cluster, mtp)))


def ensure_token(path: Path) -> None:
    """A token for Ray's servers, readable by its owner only; an existing one is kept, since clients may hold it.

    Ray generates the same thing itself (`ray get-auth-token --generate`: 32 random bytes in hex), but world-readable.
    """
    if path.is_file():
        path.chmod(0o600)
    else:
        write_private(path, secrets.token_hex(32))


def is_ready(state: ClusterState) -> bool:
    """Whether the dashboard answers, its job server too, and the node has registered."""
    return living_nodes(state) > 0


def living_nodes(state: ClusterState) -> int:
    """How many nodes the dashboard lists as alive; 0 while it or its job server does not answer."""
    headers = {"Authorization": f"Bearer {state.token()}"}
    try:
        with httpx.Client(base_url=state.dashboard_url, headers=headers, timeout=10) as client:
            client.get("/api/jobs/").raise_for_status()
            summary = client.get("/nodes?view=summary").raise_for_status().json()["data"]["summary"]
            return sum(node["raylet"].get("state") == "ALIVE" for node in summary)
    except (httpx.HTTPError, KeyError, json.JSONDecodeError):
        return 0


def daemons(state: ClusterState) -> dict[str, Daemon]:
    """The head's server processes; a missing one has died."""
    logs = state.ray_temp_dir / "session_latest" / "logs"
    found = {}
    for process in members(state.cluster_id):
        try:
            arguments, started = process.cmdline()[:3], start_time(process.pid)
        except psutil.NoSuchProcess:
            continue
        for name, ending in SERVERS.items():
            if any(argument.endswith(f"/{ending}") for argument in arguments):
                found[name] = Daemon(pid=process.pid, started=started, log=logs / f"{ending.removesuffix('.py')}.out")
    return found
