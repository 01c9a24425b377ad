"""A data set, a training that nothing disturbs, and an endpoint with two replicas, all on the session's cluster."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mtp.config import ServeConfig
from tests.chaos.scene import Scene
from tests.train.datasets import write_dataset


@pytest.fixture(scope="module")
def scene(ray_cluster, tmp_path_factory):
    from cluster.ports import free_ports
    from serve.deploy import deploy, undeploy

    root = tmp_path_factory.mktemp("chaos")
    write_dataset(root / "data")
    scene = Scene(ray_cluster, root)
    config = ServeConfig(port=free_ports(1)[0], num_replicas=2, num_cpus=0.1, max_batch_size=4)
    with ThreadPoolExecutor() as threads:
        calm = threads.submit(scene.train, "calm")
        scene.url = deploy(str(scene.write_model()), config)
        scene.calm = calm.result()
    yield scene
    undeploy(config.app_name)
