"""A node whose clock is wrong: every process on it sees another time of day (the package libfaketime, if installed)."""

import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tests.chaos.node import FurtherNode

AHEAD_S = 3 * 3600


@contextmanager
def node_with_a_fast_clock(cpus):
    """Adds it to the session's cluster, and yields the FurtherNode."""
    library = _library()
    if library is None:
        pytest.skip("libfaketime is not installed (`pip install libfaketime` compiles it)")
    before = {node["NodeID"] for node in ray.nodes()}
    with FurtherNode(cpus, LD_PRELOAD=library, FAKETIME=f"+{AHEAD_S}", FAKETIME_DONT_FAKE_MONOTONIC=1) as further:
        (node,) = {node["NodeID"] for node in ray.nodes()} - before
        # No speed: whether the fault is there at all, which would be nobody's otherwise.
        assert _clock_of(node) > time.time() + AHEAD_S / 2, "the library changes nothing"
        yield further


def _library():
    """What programs are made to load; None if it is not there."""
    found = find_spec("libfaketime")
    return next(Path(found.origin).parent.rglob("libfaketime.so.1"), None) if found else None


def _clock_of(node):
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.get(ray.remote(_now).options(scheduling_strategy=there, num_cpus=0.1).remote())


def _now():
    return time.time()
