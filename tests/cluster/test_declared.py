"""The endpoint of the RayService manifest, deployed by its file on a real Ray Serve, with a model of our own in it."""

import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import torch
import yaml

from cluster.ports import free_ports
from mtp.checkpoint import save_model
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer
from serve.api_keys import KeyStore
from tests.cluster.kustomize import render
from tests.decode.tiny import KINDS, tiny_config

OVERLAY = Path(__file__).resolve().parents[2] / "cluster" / "kubernetes" / "overlays" / "cpu-small"


@pytest.fixture
def declared(tmp_path):
    """The manifest's Serve configuration with a tiny model's folder, a free port and a file of keys put in."""
    tokenizer = Tokenizer.train(["def f(x):\n    return x + 1\n"] * 20, 300)
    torch.manual_seed(0)
    model = MTPModel(tiny_config(KINDS["sequential"], vocab_size=tokenizer.vocab_size))
    folder = str(save_model(tmp_path / "toy", model, tokenizer))
    _, secret = KeyStore(tmp_path / "keys.json").add("client", None, None)
    (service,) = [one for one in render(OVERLAY) if one["kind"] == "RayService"]
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    version, endpoint = config["applications"]
    version["args"]["model_uri"] = folder
    version["deployments"][0]["ray_actor_options"]["num_cpus"] = 0.25
    endpoint["args"]["routes"][0]["uri"] = folder
    endpoint["args"]["keys_file"] = str(tmp_path / "keys.json")
    config["proxy_location"] = "HeadOnly"
    config["http_options"] = {"host": "127.0.0.1", "port": free_ports(1)[0]}
    return config, secret


@pytest.mark.long
def test_the_manifests_endpoint_answers_those_who_have_a_key(ray_cluster, declared):
    config, secret = declared
    headers = {"Authorization": f"Bearer {ray_cluster.token()}"}
    applications = f"{ray_cluster.dashboard_url}/api/serve/applications/"
    httpx.put(applications, json=config, headers=headers, timeout=60).raise_for_status()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{config['http_options']['port']}", timeout=60) as client:
            wait_until_ready(client)
            asked = {"model": "mtp", "prompt": "def f(", "max_tokens": 5}
            assert client.post("/v1/completions", json=asked).status_code == 401
            client.headers["Authorization"] = f"Bearer {secret}"
            answer = client.post("/v1/completions", json=asked)
            assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0
    finally:
        httpx.delete(applications, headers=headers, timeout=60)


def wait_until_ready(client):
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):  # the proxy is not up yet
            if client.get("/ready").status_code == 200:
                return
        time.sleep(0.5)
    raise AssertionError("the endpoint did not become ready")
