"""Small registries of real MLflow: a sqlite file, and servers that a test may kill."""

import os
import time
from contextlib import contextmanager

import pytest

from mtp.config import TrackingConfig


@pytest.fixture
def model_folder(tmp_path):
    """A folder with the three files of a model; the registry looks at names and bytes only."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "deepseek_v3"}')
    (folder / "model.safetensors").write_bytes(os.urandom(3_000_000))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def tracking(mlflow_uri):
    """The session's server, with an experiment of this test's own."""
    return TrackingConfig(uri=mlflow_uri, experiment=f"test-{time.time_ns()}")


@pytest.fixture
def local_tracking(ray_cluster):
    """The same on the local cluster's server, whose files can be looked at."""
    return TrackingConfig(uri=ray_cluster.mlflow_url, experiment=f"test-{time.time_ns()}")


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """A state folder of this test's own."""
    monkeypatch.setenv("MTP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def second_server():
    """`with second_server(folder, port) as url:` is another real server, ended with the block."""
    return mlflow_server


@contextmanager
def mlflow_server(folder, port):
    from cluster import mlflow_server as server
    from cluster.processes import launch, stop
    from mtp.config import ClusterConfig

    identity = f"test-{port}-{time.time_ns()}"
    url = f"http://127.0.0.1:{port}"
    config = ClusterConfig(mlflow_port=port)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        process = launch(server.command(config, folder), server.environment(), identity, folder / "mlflow.log")
        deadline = time.monotonic() + 120
        while not server.is_ready(url):
            assert process.poll() is None, (folder / "mlflow.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield url
    finally:
        stop(identity)
