"""Versions: side by side, canaries, following an alias under load, a bad version, a killed replica."""

import os
import signal

import httpx
import pytest
import torch

from mtp.checkpoint import load_model, save_model
from mtp.config import ServeConfig, TrackingConfig
from mtp.errors import MTPError
from mtp.registry import ModelCard, drift, production_of, promote, register_model, start_run, versions
from mtp.tokenizer import Tokenizer
from tests.serve.conftest import wait_for
from tests.serve.load import GREEDY, Load

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def registered(ray_cluster, model_folder, tmp_path_factory):
    """The registered model `roll`: version 1 (champion) and 2 are the tiny model, 3 gives NaN."""
    run = start_run(TrackingConfig(uri=ray_cluster.mlflow_url), "roll", {})
    broken = load_model(model_folder)
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    bad = save_model(tmp_path_factory.mktemp("bad") / "model", broken, Tokenizer.load(model_folder))
    card = ModelCard(acceptance=(0.5, 0.4, 0.3))
    for folder in (model_folder, model_folder, bad):
        register_model(run, folder, "roll", card=card, uri=ray_cluster.mlflow_url)
    promote("roll", 1, uri=ray_cluster.mlflow_url)
    return "roll"


@pytest.fixture(scope="module")
def rolling(endpoint, registered, ray_cluster, endpoint_keys):
    """The endpoint, serving `roll@champion` on two replicas beside `toy`."""
    from serve.deploy import deploy, undeploy

    config = ServeConfig(
        port=int(endpoint.rpartition(":")[2]),
        num_replicas=2,
        num_cpus=0.1,
        max_batch_size=8,
        follow_alias_s=1,
        telemetry_minutes=0.05,
        api_keys=str(endpoint_keys.path),
    )
    deploy(f"models:/{registered}@champion", config, ray_cluster.mlflow_url)
    yield endpoint
    undeploy(model=registered)


def uris(url, model):
    return httpx.get(f"{url}/ready", timeout=30).json()["models"].get(model)


def test_models_are_served_side_by_side_under_their_names(rolling, client):
    assert {card["id"] for card in client.get("/v1/models").json()["data"]} == {"toy", "roll"}
    for name in ("toy", "roll"):
        assert client.post("/v1/completions", json=GREEDY | {"model": name}).json()["model"] == name
    assert client.post("/v1/completions", json=GREEDY).status_code == 400
    card = client.get("/v1/models/roll").json()["card"]
    assert (card["version"], card["aliases"]) == (1, ["champion"])


def test_a_killed_replica_costs_no_stream_and_changes_no_text(rolling, client):
    expected = client.post("/v1/completions", json=GREEDY | {"model": "roll"}).json()["choices"][0]["text"]
    with Load(rolling, "roll") as load:
        wait_for(lambda: len(load.texts) >= 4)
        os.kill(replica_pids("roll")[0], signal.SIGKILL)
        done = len(load.texts)
        wait_for(lambda: len(load.texts) >= done + 24)
    assert load.faults == []
    assert set(load.texts) == {expected}


def test_a_promoted_version_is_rolled_in_without_a_failed_or_truncated_request(rolling, registered, ray_cluster):
    assert uris(rolling, "roll") == ["models:/roll/1"]
    with Load(rolling, "roll", width=8) as load:
        wait_for(lambda: len(load.texts) >= 4)
        promote(registered, 2, uri=ray_cluster.mlflow_url)
        wait_for(lambda: uris(rolling, "roll") == ["models:/roll/2"], seconds=150)
        done = len(load.texts)
        wait_for(lambda: len(load.texts) >= done + 8)
    assert load.faults == []
    assert len(set(load.texts)) == 1


def test_a_version_that_does_not_decode_leaves_the_old_one_serving_and_says_why(
    rolling, registered, ray_cluster, client
):
    promote(registered, 3, uri=ray_cluster.mlflow_url)
    try:
        wait_for(lambda: "note" in client.get("/v1/models/roll").json(), seconds=150)
        card = client.get("/v1/models/roll").json()
        assert card["root"] == "models:/roll/2"
        assert "models:/roll/3 is not served" in card["note"] and "NaN" in card["note"]
        assert len(replica_pids("roll")) == 2, "the old version lost capacity"
        assert client.post("/v1/completions", json=GREEDY | {"model": "roll"}).status_code == 200
    finally:
        promote(registered, 2, uri=ray_cluster.mlflow_url)


def test_a_canary_gets_its_share_under_the_same_name(rolling, registered, ray_cluster, endpoint_keys, client):
    from serve.deploy import deploy

    config = ServeConfig(port=int(rolling.rpartition(":")[2]), num_cpus=0.1, api_keys=str(endpoint_keys.path))
    deploy("models:/roll/1", config, ray_cluster.mlflow_url, canary_percent=50)
    card = client.get("/v1/models/roll").json()
    assert [(one["uri"], one["weight"]) for one in card["versions"]] == [("models:/roll/2", 50), ("models:/roll/1", 50)]
    for _ in range(12):
        assert client.post("/v1/completions", json=GREEDY | {"model": "roll", "max_tokens": 2}).status_code == 200
    wait_for(lambda: {"models:/roll/1", "models:/roll/2"} <= served(client.get("/metrics").text))


def served(page):
    lines = [line for line in page.splitlines() if line.startswith("mtp_request_success_total")]
    return {uri for line in lines for uri in ("models:/roll/1", "models:/roll/2") if f'"{uri}"' in line}


def test_what_serving_accepts_is_written_to_the_version(rolling, registered, ray_cluster):
    def reported():
        found = versions(registered, uri=ray_cluster.mlflow_url)
        return [one for one in found if production_of(one.tags) is not None]

    wait_for(lambda: reported(), seconds=60)
    production = production_of(reported()[0].tags)
    assert production.steps >= 200 and len(production.acceptance) == 3
    assert 1 <= production.tokens_per_step <= 4
    assert drift((1.0, 1.0, 1.0), production) or production.acceptance[0] > 0.9


def test_serving_goes_on_while_the_registry_is_down_and_a_deployment_is_refused(rolling, client, endpoint_keys):
    from serve.deploy import deploy

    with pytest.raises(MTPError, match="does not answer"):
        deploy("models:/roll@champion", ServeConfig(api_keys=str(endpoint_keys.path)), "http://127.0.0.1:9")
    assert client.post("/v1/completions", json=GREEDY | {"model": "roll"}).status_code == 200


def replica_pids(model):
    """Of the replicas that serve `model`, from Ray Serve's own bookkeeping."""
    from ray.util.state import list_actors

    from serve.deploy import current

    apps = [route.app for route in current("mtp").routes if route.name == model]
    actors = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    return [actor.pid for actor in actors if any(f"::{app}#" in (actor.name or "") for app in apps)]
