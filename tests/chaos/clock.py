"""A node whose clock is wrong: every process on it sees another time of day (the package libfaketime, if installed)."""

import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

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
    library = _library()
    if library is None:
        pytest.skip("libfaketime is not installed (`pip install libfaketime` compiles it)")
    before = {node["NodeID"] for node in ray.nodes()}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(library))
        environment.setenv("FAKETIME", f"+{AHEAD_S}")
        environment.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        state = up(ClusterConfig(nodes=1, cpus_per_node=cpus, object_store_mb=100))
    raylet = psutil.Process(state.nodes["node-1"].pid)
    (node,) = {node["NodeID"] for node in ray.nodes()} - before
    # No speed: whether the fault is there at all, which would be nobody's otherwise.
    assert _clock_of(node) > time.time() + AHEAD_S / 2, "the library changes nothing"
    try:
        yield raylet
    finally:
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()


def _library():
    """What programs are made to load; None if it is not there."""
    found = find_spec("libfaketime")
    return next(Path(found.origin).parent.rglob("libfaketime.so.1"), None) if found else None


def _clock_of(node):
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.get(ray.remote(_now).options(scheduling_strategy=there, num_cpus=0.1).remote())


def _now():
    return time.time()
