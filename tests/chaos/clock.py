"""A node whose clock is wrong: every process on it sees another time of day (libfaketime, which Debian brings)."""

import shutil
import subprocess
import time
from contextlib import contextmanager

import psutil
import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.local import up
from mtp.config import ClusterConfig

AHEAD_S = 3 * 3600


@contextmanager
def node_with_a_fast_clock(cpus):
    """Adds it to the session's cluster; yields its raylet as a psutil.Process. Its processes are killed at the end."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed (it comes with the distribution's package of that name)")
    before = {node["NodeID"] for node in ray.nodes()}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in _faked().items():
            environment.setenv(name, value)
        state = up(ClusterConfig(nodes=1, cpus_per_node=cpus, object_store_mb=100))
    raylet = psutil.Process(state.nodes["node-1"].pid)
    (node,) = {node["NodeID"] for node in ray.nodes()} - before
    assert abs(_clock_of(node) - time.time() - AHEAD_S) < 60
    try:
        yield raylet
    finally:
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()


def _faked():
    """What `faketime` would set, but for its semaphore, and with the library for programs of several threads."""
    shown = subprocess.run(["faketime", "-f", "+1", "env"], capture_output=True, text=True, check=True).stdout
    (library,) = [line.partition("=")[2] for line in shown.splitlines() if line.startswith("LD_PRELOAD=")]
    return {
        "LD_PRELOAD": library.replace("libfaketime.so", "libfaketimeMT.so"),
        "FAKETIME": f"+{AHEAD_S}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _clock_of(node):
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.get(ray.remote(_now).options(scheduling_strategy=there, num_cpus=0.1).remote())


def _now():
    return time.time()
