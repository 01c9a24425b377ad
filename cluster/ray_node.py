"""One more Ray node on this machine: a raylet that joins the local head, over the loopback address alone.

`ray start --address` refuses to run on the loopback address, so this process starts the raylet as Ray's own test
clusters do, prints its process id, and ends; the raylet stays. Run as `python -m cluster.ray_node ADDRESS CPUS MB`.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import psutil

from cluster.ports import LOOPBACK
from cluster.processes import launch, start_time
from cluster.ray_head import environment, living_nodes
from cluster.slow_start import patiently, start_error
from cluster.state import ClusterState, Daemon
from mtp.config import ClusterConfig, home
from mtp.errors import MTPError

LISTED_TIMEOUT_S = 60.0


def start_nodes(state: ClusterState, config: ClusterConfig, on_progress: Callable[[str], None]) -> dict[str, Daemon]:
    """As many nodes as `config` asks for: those of `state` that live, and new ones for the others, one after the other.

    Raises:
        MTPError: one did not start; the sentence names its log.
    """
    nodes = state.living_nodes()
    for number in range(1, config.nodes + 1):
        name = f"node-{number}"
        if name not in nodes:
            nodes[name] = patiently(partial(_start, name, state, config), on_progress)
    deadline = time.monotonic() + LISTED_TIMEOUT_S
    while living_nodes(state) < 1 + len(nodes):  # they have joined; the dashboard sees it some seconds later
        if time.monotonic() > deadline:
            raise MTPError(f"Ray lists fewer than {1 + len(nodes)} nodes; see {state.ray_temp_dir}/session_latest/logs")
        time.sleep(0.5)
    return nodes


def _start(name: str, state: ClusterState, config: ClusterConfig) -> Daemon:
    log = home() / "logs" / f"{name}.log"
    command = [sys.executable, "-m", "cluster.ray_node", state.ray_address]
    command += [str(config.cpus_per_node), str(config.object_store_mb)]
    process = launch(command, environment(state.token_file, state.mlflow_url), state.cluster_id, log)
    exit_code = process.wait()
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["-"]
    if exit_code != 0:
        raise start_error(f"{name} ended with exit code {exit_code}; its last words in {log}: {lines[-1]}", lines[-1])
    pid = int(lines[-1])
    return Daemon(pid=pid, started=start_time(pid), log=log)


def main(address: str, num_cpus: int, object_store_mb: int) -> None:
    """Start the raylet, wait until the head knows it, print its process id."""
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    parameters = RayParams(
        gcs_address=address,
        node_ip_address=LOOPBACK,
        num_cpus=num_cpus,
        object_store_memory=object_store_mb * 2**20,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        dashboard_agent_listen_port=None,  # drawn, beside the head's
        include_log_monitor=False,  # the head's watches the session's folder, which is this node's too
    )
    try:
        node = Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)
    except BaseException:
        for child in psutil.Process().children(recursive=True):  # or a late raylet joins a cluster that counts it not
            child.kill()
        raise
    (raylet,) = node.all_processes["raylet"]
    print(raylet.process.pid, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
