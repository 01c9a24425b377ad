"""One model folder, and one endpoint that serves it on the shared cluster, for all tests of this folder."""

import time

import httpx
import pytest
import torch

from mtp.checkpoint import save_model
from mtp.config import ServeConfig
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer
from serve.api_keys import KeyStore
from tests.decode.tiny import KINDS, tiny_config, train


def wait_for(condition, seconds=60):
    """Until `condition()` holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def value_of(page, name, label=""):
    """Sum of a metric's samples in Prometheus' text, of those with a label such as model_name="toy"."""
    lines = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} ")) and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny model with sequential modules, and a tokenizer that fits it."""
    tokenizer = Tokenizer.train(["def f(x):\n    return x + 1\n", "for i in range(10):\n    print(i)\n"] * 20, 300)
    torch.manual_seed(0)
    config = tiny_config(KINDS["sequential"], vocab_size=tokenizer.vocab_size)
    model = train(MTPModel(config), steps=20)
    return save_model(tmp_path_factory.mktemp("models") / "toy", model, tokenizer)


@pytest.fixture(scope="session")
def endpoint_keys(tmp_path_factory):
    """The store of the endpoint's API keys; empty, so that everybody may ask."""
    return KeyStore(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="session")
def endpoint_config(endpoint_keys):
    """How the endpoint is deployed; another model beside it has the same, or the gateway's limits change."""
    from cluster.ports import free_ports

    return ServeConfig(
        port=free_ports(1)[0],
        max_batch_size=4,
        num_cpus=0.25,
        max_ongoing_requests=20,
        max_queued_requests=30,
        max_body_bytes=200_000,
        max_completion_tokens=100,
        api_keys=str(endpoint_keys.path),
    )


@pytest.fixture(scope="session")
def endpoint(ray_cluster, model_folder, endpoint_config):
    """The URL of a real Ray Serve endpoint."""
    from serve.deploy import deploy, undeploy

    yield deploy(str(model_folder), endpoint_config)
    undeploy(endpoint_config.app_name)


@pytest.fixture
def client(endpoint):
    with httpx.Client(base_url=endpoint, timeout=60) as client:
        yield client
