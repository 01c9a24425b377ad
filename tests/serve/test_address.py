"""`mtp deploy --address`: from a machine that has only the address of a job server and a token."""

import httpx
import pytest
from typer.testing import CliRunner

from mtp.cli.app import app


def mtp(*words):
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.long
def test_a_model_is_deployed_and_taken_away_on_another_cluster(
    ray_cluster, endpoint, endpoint_keys, model_folder, client, tmp_path, monkeypatch
):
    monkeypatch.setenv("MTP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(ray_cluster.token_file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    settings = [f"serve.port={endpoint.rpartition(':')[2]}", f"serve.api_keys={endpoint_keys.path}"]
    there = ["--address", ray_cluster.dashboard_url]
    mtp("deploy", str(model_folder), "serve.num_cpus=0.1", *settings, "--name", "away", *there)
    body = {"model": "away", "prompt": "def f(x):", "max_tokens": 8}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == httpx.codes.OK and answer.json()["usage"]["completion_tokens"] == 8
    mtp("undeploy", "away", *there)
    assert client.post("/v1/completions", json=body).status_code == httpx.codes.NOT_FOUND
    assert client.get("/health").status_code == httpx.codes.OK
