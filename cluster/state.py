"""What is remembered of a running local cluster: the one file `cluster.json` in the state folder.

Knows the file and the environment variables that clients need; knows nothing about how the processes are started.
"""

import os
import tempfile
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.processes import is_running
from mtp.config import home


class Daemon(BaseModel):
    """One server process: its id, with its start so that a recycled id is not taken for it, and its log."""

    pid: int
    started: float
    log: Path

    def is_running(self) -> bool:
        """Whether it is still that process."""
        return is_running(self.pid, self.started)


class ClusterState(BaseModel):
    """A local cluster as `up` left it."""

    model_config = ConfigDict(frozen=True)

    cluster_id: str
    """Carried in the environment of every process of the cluster (processes.MARKER)."""
    ray_address: str
    dashboard_url: str
    mlflow_url: str
    token_file: Path
    ray_temp_dir: Path
    """Short, since sockets lie below it; removed by `down`."""
    daemons: dict[str, Daemon]
    """`gcs`, `raylet`, `dashboard`, `mlflow`: without any of these the cluster does not work. Empty while it starts."""
    nodes: dict[str, Daemon] = {}
    """The raylets of further nodes, `node-1` and so on; the cluster lives on without them."""
    prometheus_url: str | None = None
    """Where monitoring is, if it was asked for."""

    def is_healthy(self) -> bool:
        """Whether it was started to the end, and every server process still runs; monitoring may have died."""
        return bool(self.daemons) and all(
            daemon.is_running() for name, daemon in self.daemons.items() if name != "prometheus"
        )

    def living_nodes(self) -> dict[str, Daemon]:
        """The further nodes whose raylets run."""
        return {name: node for name, node in self.nodes.items() if node.is_running()}

    def summary(self) -> dict[str, str]:
        """What a user needs to know of a running cluster, for a table or JSON."""
        nodes = {"nodes beside the head": str(len(self.nodes))} if self.nodes else {}
        monitoring = {"Prometheus": self.prometheus_url} if self.prometheus_url else {}
        return {
            "Ray address": self.ray_address,
            "Ray dashboard": self.dashboard_url,
            "MLflow": self.mlflow_url,
            **nodes,
            **monitoring,
            "token file": str(self.token_file),
            "logs": f"{self.daemons['mlflow'].log.parent}, {self.ray_temp_dir}/session_latest/logs",
        }

    def token(self) -> str:
        """The secret that Ray's servers ask for."""
        return self.token_file.read_text().strip()

    def environment(self) -> dict[str, str]:
        """What a client's process needs in its environment to use Ray and MLflow here."""
        return {
            "RAY_ADDRESS": self.ray_address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            **LOOPBACK_ONLY,
            **SERVE_OVER_GRPC,
            **QUIET,
        }

    def save(self) -> None:
        """Write `cluster.json` so that a reader sees the old or the new one, never a part."""
        write_private(state_file(), self.model_dump_json(indent=2))

    @classmethod
    def load(cls) -> Self | None:
        """The last cluster that `up` started and nobody took down; it may have died since. None if there is none."""
        try:
            return cls.model_validate_json(state_file().read_text())
        except FileNotFoundError:
            return None
        except ValidationError:  # of another version of ours; its processes are found by `mtp doctor`, not by guessing
            return None


LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray replaces 127.0.0.1 by the machine's outward address unless told that it is no multi-machine cluster; with this,
all of its servers listen on the loopback address alone, and clients look for them there."""

SERVE_OVER_GRPC = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(256 * 2**20),
}
"""Ray Serve's proxy, gateways and replicas talk over gRPC, which costs less than Ray's calls (docs/benchmarks.md). Its
own limit of 4 MiB a message is less than a large tokenizer, which a replica sends to the gateway as one."""

EQUAL_WORKERS = {"RAY_worker_niceness": "0"}
"""Ray gives its workers a niceness of 15, so that whatever else wants a core takes it from training and replicas; a
thread of theirs that lost its core holds up the others of its team (docs/benchmarks.md, "The whole platform")."""

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
"""Nothing is reported to anyone."""


def state_file() -> Path:
    """Where the state lies."""
    return home() / "cluster.json"


def write_private(path: Path, text: str) -> None:
    """Replace `path` at once, readable by its owner only (mode 0600)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
