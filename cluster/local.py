"""The cluster on this machine: a Ray head and an MLflow server that outlive the command which started them.

`up` starts both side by side and waits until they answer; `down` ends every process that carries the cluster's id, and
no other. A cluster that is half started, or half dead, is stopped as a whole. Knows nothing about jobs or models.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cluster import mlflow_server, prometheus, ray_head, ray_node
from cluster.ports import LOOPBACK, require_free
from cluster.processes import launch, start_time, stop
from cluster.slow_start import patiently, start_error
from cluster.state import ClusterState, Daemon, state_file
from mtp.config import ClusterConfig, home
from mtp.errors import MTPError, UsageError

START_TIMEOUT_S = 240.0
_LONGEST_TEMP_DIR = 40
"""Ray makes sockets below it, whose paths may hold 107 bytes."""

Progress = Callable[[str], None]


def up(config: ClusterConfig, on_progress: Progress = lambda text: None) -> ClusterState:
    """Start the local cluster, or find the running one; returns when Ray and MLflow answer.

    `on_progress` is told in a few words what is awaited. If it is interrupted, or a server fails, all that was started
    is stopped again.

    Raises:
        UsageError: a port is in use.
        MTPError: a server did not start; the sentence names its log.
    """
    with _one_at_a_time():
        running = ClusterState.load()
        if running is not None:
            if running.is_healthy():
                return _complete(running, config, on_progress)
            on_progress("Clearing away a cluster that has died")
            _stop(running)
        require_free(
            {
                "cluster.ray_port": config.ray_port,
                "cluster.dashboard_port": config.dashboard_port,
                "cluster.mlflow_port": config.mlflow_port,
            }
        )
        if config.monitoring:
            require_free({"cluster.prometheus_port": config.prometheus_port})
            prometheus.require_installed()
        started = patiently(lambda: _start(config, on_progress), on_progress)
        try:
            return _complete(started, config, on_progress)
        except BaseException:
            _stop(started)
            raise


def down() -> list[int]:
    """Stop the local cluster, dead or alive, and forget it; returns the ids of the processes that were ended."""
    with _one_at_a_time():
        state = ClusterState.load()
        return _stop(state) if state is not None else []


def load_state() -> ClusterState | None:
    """The running local cluster, or None if there is none or it has died."""
    state = ClusterState.load()
    return state if state is not None and state.is_healthy() else None


def require_state() -> ClusterState:
    """The running local cluster.

    Raises:
        MTPError: there is none.
    """
    state = load_state()
    if state is None:
        raise MTPError("no local cluster is running; start one with `mtp up`")
    return state


def connect(state: ClusterState | None = None) -> ClusterState:
    """Join this process to the local cluster: export `environment()` and call `ray.init`.

    A MLFLOW_TRACKING_URI that the user has exported stays.

    Raises:
        MTPError: no local cluster is running.
    """
    state = state or require_state()
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ.update(state.environment() | ({"MLFLOW_TRACKING_URI": chosen} if chosen else {}))
    if "ray" in sys.modules:
        _refresh_imported_ray()
    import ray

    ray.init(
        address=state.ray_address,
        namespace="mtp",
        logging_level="warning",
        configure_logging=False,
        log_to_driver=False,  # workers' own chatter stays in Ray's log files; what users need comes as events
        ignore_reinit_error=True,
    )
    return state


def _refresh_imported_ray() -> None:
    """Ray reads these two settings when it is imported; make an already imported one read them again."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = False


def _start(config: ClusterConfig, on_progress: Progress) -> ClusterState:
    state = _plan(config)
    state.save()  # before anything runs, so that `down` finds it even if this process is killed
    try:
        on_progress("Starting Ray and MLflow")
        ray_head.ensure_token(state.token_file)
        ray_environment = ray_head.environment(state.token_file, state.mlflow_url)
        ray = launch(ray_head.command(config, state.ray_temp_dir), ray_environment, state.cluster_id, _log("ray-start"))
        mlflow_command = mlflow_server.command(config, home())
        mlflow = launch(mlflow_command, mlflow_server.environment(), state.cluster_id, _log("mlflow"))
        waiting = [
            _Server("Ray", ray, _log("ray-start"), lambda: ray.poll() == 0 and ray_head.is_ready(state)),
            _Server("MLflow", mlflow, _log("mlflow"), lambda: mlflow_server.is_ready(state.mlflow_url)),
        ]
        _wait(waiting, on_progress)
        started = state.model_copy(update={"daemons": _daemons(state, mlflow.pid)})
        started.save()
        return started
    except BaseException:
        _stop(state)
        raise


def _complete(state: ClusterState, config: ClusterConfig, on_progress: Progress) -> ClusterState:
    """A running cluster with the nodes and the monitoring that `config` asks for, and that it may lack."""
    if any(f"node-{number}" not in state.living_nodes() for number in range(1, config.nodes + 1)):
        on_progress("Starting further nodes")
        state = state.model_copy(update={"nodes": ray_node.start_nodes(state, config, on_progress)})
        state.save()
    if config.monitoring and not (state.prometheus_url and state.daemons["prometheus"].is_running()):
        on_progress("Starting Prometheus")
        server = prometheus.start(state, config)
        url = prometheus.url(config)
        state = state.model_copy(update={"daemons": {**state.daemons, "prometheus": server}, "prometheus_url": url})
        state.save()
    return state


def _plan(config: ClusterConfig) -> ClusterState:
    """The state of a cluster about to be started, with a short private folder for Ray."""
    cluster_id = uuid.uuid4().hex
    temp_dir = Path(tempfile.gettempdir()) / f"mtp-{cluster_id[:8]}"
    if len(str(temp_dir)) > _LONGEST_TEMP_DIR:
        raise UsageError(f"{temp_dir} is too long a path for Ray's sockets; set TMPDIR to a shorter folder")
    temp_dir.mkdir(mode=0o700)
    return ClusterState(
        cluster_id=cluster_id,
        ray_address=f"{LOOPBACK}:{config.ray_port}",
        dashboard_url=f"http://{LOOPBACK}:{config.dashboard_port}",
        mlflow_url=f"http://{LOOPBACK}:{config.mlflow_port}",
        token_file=home() / "ray_token",
        ray_temp_dir=temp_dir,
        daemons={},
    )


def _log(name: str) -> Path:
    return home() / "logs" / f"{name}.log"


def _daemons(state: ClusterState, mlflow_pid: int) -> dict[str, Daemon]:
    found = ray_head.daemons(state)
    found["mlflow"] = Daemon(pid=mlflow_pid, started=start_time(mlflow_pid), log=_log("mlflow"))
    missing = {*ray_head.SERVERS, "mlflow"} - set(found)
    if missing:
        raise MTPError(f"{', '.join(sorted(missing))} ended just after the start; see {state.ray_temp_dir}")
    return found


class _Server(NamedTuple):
    """What is being started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    is_ready: Callable[[], bool]


def _wait(servers: list[_Server], on_progress: Progress) -> None:
    """Until all are ready, or an MTPError that quotes the last line of one's log."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while servers:
        on_progress(f"Waiting for {' and '.join(server.name for server in servers)}")
        for server in servers:
            failed = server.process.poll() not in (None, 0)
            if failed or time.monotonic() > deadline:
                log = server.log.read_text(errors="replace")
                lines = [line for line in log.splitlines() if line.strip()]
                what = f"ended with exit code {server.process.returncode}" if failed else "does not answer"
                sentence = f"{server.name} {what}; its last words in {server.log}: {lines[-1] if lines else '-'}"
                raise start_error(sentence, log if failed else "")
        servers = [server for server in servers if not server.is_ready()]
        time.sleep(0.2)


def _stop(state: ClusterState) -> list[int]:
    stopped = stop(state.cluster_id)
    shutil.rmtree(state.ray_temp_dir, ignore_errors=True)
    state_file().unlink(missing_ok=True)
    return stopped


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two `up` (or `down`) at once: the second waits for the first. The kernel drops the lock of a dead process."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
