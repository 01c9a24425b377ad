"""Prometheus on the loopback address, which collects what Ray's agents, replicas and gateways publish.

It is the machine's own Prometheus: a distribution's package, not part of this project. Scrapes the nodes that Ray lists
in its discovery file, and watches the rules in `alerts.yaml`. Knows nothing of what the metrics mean.
"""

import shutil
from pathlib import Path

import httpx
import yaml

from cluster.ports import LOOPBACK
from cluster.processes import launch, start_time
from cluster.state import ClusterState, Daemon, write_private
from mtp.config import ClusterConfig, home
from mtp.errors import UsageError

ALERTS = Path(__file__).parent / "alerts.yaml"
SCRAPE_INTERVAL_S = 10
_KEEP = "15d"


def require_installed() -> str:
    """The path of the program.

    Raises:
        UsageError: it is not installed.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise UsageError(
            "Prometheus is not installed; install it (on Debian: apt install prometheus) or leave --monitoring out"
        )
    return program


def configuration(state: ClusterState) -> dict[str, object]:
    """What `prometheus.yml` says: every node of this cluster, by the file that the head keeps up to date."""
    discovery = state.ray_temp_dir / "prom_metrics_service_discovery.json"
    return {
        "global": {"scrape_interval": f"{SCRAPE_INTERVAL_S}s", "evaluation_interval": f"{SCRAPE_INTERVAL_S}s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(discovery)]}]}],
    }


def start(state: ClusterState, config: ClusterConfig) -> Daemon:
    """Start it as a process of the cluster; its data lies in the state folder and outlives it."""
    program = require_installed()
    folder = home() / "prometheus"
    file, log = folder / "prometheus.yml", home() / "logs" / "prometheus.log"
    write_private(file, yaml.safe_dump(configuration(state)))
    arguments = {
        "config.file": file,
        "storage.tsdb.path": folder / "data",
        "storage.tsdb.retention.time": _KEEP,
        "web.listen-address": f"{LOOPBACK}:{config.prometheus_port}",
    }
    command = [program, *(f"--{name}={value}" for name, value in arguments.items())]
    process = launch(command, {"PATH": "/usr/bin:/bin"}, state.cluster_id, log)
    return Daemon(pid=process.pid, started=start_time(process.pid), log=log)


def url(config: ClusterConfig) -> str:
    """Where its page and its API are."""
    return f"http://{LOOPBACK}:{config.prometheus_port}"


def is_ready(address: str) -> bool:
    """Whether it answers queries."""
    try:
        return httpx.get(f"{address}/-/ready", timeout=5).is_success
    except httpx.HTTPError:
        return False
