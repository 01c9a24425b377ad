"""The head's whole node is lost under a training and an endpoint, and comes back: what Kubernetes does with a head pod.

With it go the GCS (whose Redis stays), the job server, the training's driver, Ray Serve's controller, the proxy and the
gateways; what is left is another node with a replica on it, the registry and the disk.
"""

import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from cluster import ray_head
from cluster.local import down, up
from cluster.ports import free_ports
from cluster.processes import launch, members
from mtp.config import ClusterConfig, dump_config
from mtp.registry import metric_history
from mtp.train import RunFolder
from tests.chaos.faults import processes
from tests.chaos.keeper import DOWN_S
from tests.chaos.redis_server import Redis
from tests.chaos.scene import write_model
from tests.serve.conftest import wait_for
from tests.serve.load import Load
from tests.train import fits
from tests.train.datasets import write_dataset

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.long]
STEPS = 200
LOST_AT = 30


class LosableCluster:
    """A cluster of the test's own: a head that keeps its state in Redis, and one more node."""

    def __init__(self):
        ports = dict(zip(("ray_port", "dashboard_port", "mlflow_port"), free_ports(3), strict=True))
        self.config = ClusterConfig(**ports, num_cpus=1, nodes=1, cpus_per_node=4, object_store_mb=100)
        self.state = up(self.config)

    def lose_head(self):
        """Kill all that does not belong to the other node or to the registry."""
        kept = below(self.state.nodes["node-1"].pid) | below(self.state.daemons["mlflow"].pid)
        for process in members(self.state.cluster_id):
            if process.pid not in kept:
                process.kill()

    def start_head_again(self):
        """As `mtp up` started it; a new pod has no file that says that Ray runs there already."""
        (self.state.ray_temp_dir / "ray_current_cluster").unlink()
        environment = ray_head.environment(self.state.token_file, self.state.mlflow_url)
        log = self.state.token_file.parent / "logs" / "ray-start-again.log"
        command = ray_head.command(self.config, self.state.ray_temp_dir)
        assert launch(command, environment, self.state.cluster_id, log).wait(120) == 0, log.read_text()
        wait_for(lambda: ray_head.is_ready(self.state), seconds=120)
        daemons = {**self.state.daemons, **ray_head.daemons(self.state)}
        self.state = self.state.model_copy(update={"daemons": daemons})
        self.state.save()

    def replicas(self):
        return processes(self.state, ":replica")


def below(pid):
    process = psutil.Process(pid)
    return {pid, *(child.pid for child in process.children(recursive=True))}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    if shutil.which("redis-server") is None:
        pytest.skip("the distribution's redis-server is not installed, and without it a lost head remembers nothing")
    with Redis(tmp_path) as redis:
        monkeypatch.setenv("MTP_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("RAY_REDIS_ADDRESS", redis.address)
        try:
            yield LosableCluster()
        finally:
            down()


def mtp(*words):
    """A command of a user's, who has not exported what the session's cluster has."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    command = [sys.executable, "-c", "from mtp.cli import main; main()", *map(str, words)]
    return subprocess.Popen(command, env=environment)


def submit(root, name):
    file = root / f"{name}.yaml"
    file.write_text(dump_config(config_of(root, name)))
    return mtp("submit", "train", "--config", file)


def config_of(root, name):
    return fits.settings(root, name, steps=STEPS)


def losses(root, name, uri):
    run_id = RunFolder.of(config_of(root, name)).require_record().run_id
    return metric_history(run_id, uri=uri).get("train/loss", [])


@pytest.mark.timeout(1200)
def test_an_endpoint_comes_back_and_a_training_goes_on_when_the_head_was_lost(cluster, tmp_path):
    write_dataset(tmp_path / "data")
    uri, port = cluster.state.mlflow_url, free_ports(1)[0]
    assert submit(tmp_path, "calm").wait(300) == 0
    settings = [f"serve.port={port}", "serve.num_cpus=2"]  # more than the head has
    assert mtp("deploy", write_model(tmp_path / "toy"), *settings, "--name", "toy").wait(300) == 0
    replicas = cluster.replicas()
    assert len(replicas) == 1 and replicas[0] in below(cluster.state.nodes["node-1"].pid)
    with Load(f"http://127.0.0.1:{port}", "toy", 4, pause_s=0.2, max_tokens=24) as load:
        job = submit(tmp_path, "disturbed")
        wait_for(lambda: RunFolder.of(config_of(tmp_path, "disturbed")).record() is not None, seconds=120)
        wait_for(lambda: len(losses(tmp_path, "disturbed", uri)) >= LOST_AT, seconds=120)
        cluster.lose_head()
        lost, before = time.monotonic(), len(load.texts)
        assert job.wait(120) != 0
        time.sleep(DOWN_S)
        cluster.start_head_again()
        ready = time.monotonic()
        wait_for(lambda: len(load.texts) > before + 4, seconds=300)
        print(f"head away for {ready - lost:.0f} s, endpoint for {time.monotonic() - lost:.0f} s")
        assert submit(tmp_path, "disturbed").wait(300) == 0
    assert cluster.replicas() == replicas, "the replica lived through it"
    assert len(set(load.texts)) == 1 and not any("Timeout" in fault for fault in load.faults)
    assert losses(tmp_path, "disturbed", uri) == losses(tmp_path, "calm", uri)
