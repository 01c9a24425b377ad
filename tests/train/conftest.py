"""One training that nothing disturbs, which others are compared with."""

import pytest

from tests.train.datasets import write_dataset
from tests.train.fits import Run, settings


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("train")
    write_dataset(root / "data")
    return root


@pytest.fixture(scope="session")
def through(root, ray_cluster, mlflow_uri):
    return Run(settings(root, "through"), mlflow_uri)
