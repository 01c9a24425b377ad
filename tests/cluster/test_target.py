"""Commands for another cluster: by address and token. The session's cluster stands for it: another state folder."""

import pytest
from typer.testing import CliRunner

from cluster.submit import follow, list_jobs, send, submit
from cluster.target import target
from mtp.cli.app import app
from mtp.config import build_config
from mtp.errors import MTPError, UsageError


@pytest.fixture
def elsewhere(ray_cluster, own_home, monkeypatch):
    """A machine that has no cluster of its own, and the token of one."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(ray_cluster.token_file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    return ray_cluster.dashboard_url


def test_a_job_runs_on_a_cluster_known_by_address_and_token(elsewhere, tmp_path, capfd):
    (tmp_path / "job").mkdir()
    job_id = send("where", "echo home is ${MTP_HOME:-its own}", str(tmp_path / "job"), elsewhere)
    assert follow(job_id, address=elsewhere) == 0
    assert "home is" in capfd.readouterr().out
    assert job_id in [row["id"] for row in list_jobs(elsewhere)]
    listed = CliRunner().invoke(app, ["jobs", "list", "--json", "--address", elsewhere])
    assert listed.exit_code == 0 and job_id in listed.stdout


def test_a_wrong_token_is_refused_in_one_sentence(elsewhere, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(MTPError, match="refuses the token in RAY_AUTH_TOKEN; ask who runs the cluster for its token"):
        list_jobs(elsewhere)


def test_without_a_token_or_with_no_address_the_sentence_says_what_to_do(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="set RAY_AUTH_TOKEN_PATH to it"):
        target("http://head:8265")
    with pytest.raises(UsageError, match="is no job server's URL"):
        target("head:8265")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="cannot read the token"):
        target("http://head:8265")


def test_a_way_that_can_be_read_along_is_warned_of(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert "can run any code" in target("http://10.0.0.1:8265").risk
    assert target("http://localhost:8265").risk is None
    assert target("https://ray.example").risk is None
    assert "secret" not in repr(target("http://10.0.0.1:8265"))


def test_paths_of_this_machine_are_not_sent_to_another(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    config = build_config({"data": {"path": "prepared"}})
    with pytest.raises(UsageError, match=r"data\.path is 'prepared', a path on this machine"):
        submit("train", config, "http://localhost:1")
