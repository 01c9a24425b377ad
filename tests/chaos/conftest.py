"""A data set, a training that nothing disturbs, and an endpoint with two replicas, all on the session's cluster."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.scene import MODEL, Scene, write_model
from tests.train.datasets import write_dataset


@pytest.fixture(scope="module")
def scene(ray_cluster, tmp_path_factory):
    from serve.deploy import undeploy

    root = tmp_path_factory.mktemp("chaos")
    write_dataset(root / "data")
    scene = Scene(ray_cluster, root)
    with ThreadPoolExecutor() as threads:
        calm = threads.submit(scene.train, "calm")
        write_model(root / MODEL)
        scene.url = scene.deploy(MODEL)
        scene.calm = calm.result()
    yield scene
    undeploy()
