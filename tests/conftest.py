"""What all tests share: a private state folder, and one real local cluster for the whole session.

The variables are set when pytest starts, before any test module imports ray, so that every process and every import
order sees the same ones.
"""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(tempfile.mkdtemp(prefix="mtp-test-"))

for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)
os.environ.update(
    MTP_HOME=str(HOME),
    PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
    MLFLOW_DISABLE_TELEMETRY="true",
)


def pytest_configure() -> None:
    signal.signal(signal.SIGTERM, _interrupt)  # so that a run which is ended from outside stops its cluster too
    # A run in a shell's background ignores Ctrl-C, and so would every process that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number, frame):
    raise KeyboardInterrupt


settings.register_profile("busy", deadline=None)  # no test looks at a clock, hypothesis' neither
settings.load_profile("busy")


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """Where the cluster's GCS keeps its state, if MTP_TEST_REDIS is set, so that it can be killed; else None."""
    if not os.environ.get("MTP_TEST_REDIS"):
        yield None
        return
    from tests.chaos.redis_server import Redis

    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def ray_cluster(redis):
    """A real local cluster, started by `cluster.local.up` and joined by the test process; yields its ClusterState."""
    import ray

    from cluster.local import connect, down, up
    from cluster.ports import free_ports
    from mtp.config import ClusterConfig

    before = dict(os.environ)
    ports = dict(zip(("ray_port", "dashboard_port", "mlflow_port"), free_ports(3), strict=True))
    try:
        if redis is not None:
            os.environ["RAY_REDIS_ADDRESS"] = redis.address
        state = up(ClusterConfig(**ports, num_cpus=4, object_store_mb=200))
        connect(state)
        yield state
    finally:
        ray.shutdown()
        down()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def mlflow_uri(ray_cluster):
    """The URL of a real MLflow server with an empty registry: this session's own, or MTP_TEST_MLFLOW_URI."""
    return os.environ.get("MTP_TEST_MLFLOW_URI") or ray_cluster.mlflow_url
