"""Runs in a real registry, over a server and over the sqlite file alone."""

import json
from contextlib import suppress

import pytest

from mtp.config import Config, TrackingConfig, home
from mtp.errors import MTPError, StoppedError, UsageError
from mtp.registry import (
    DatasetRecord,
    ending_run,
    fetch_model,
    finish_run,
    log_figures,
    log_json,
    log_table,
    metric_history,
    register_model,
    start_run,
    tracking_uri,
)
from mtp.registry.connection import client
from mtp.registry.files import checksums

DATA = DatasetRecord("/data", "f" * 64, profile={"rows": 12})


def test_the_uri_is_the_configured_one_else_the_environments_else_the_state_folders(own_home, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingConfig()) == f"sqlite:///{own_home}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here:1")
    assert tracking_uri(TrackingConfig()) == "http://here:1"
    assert tracking_uri(TrackingConfig(uri="http://there:2")) == "http://there:2"


def test_a_run_holds_the_resolved_configuration_the_commit_and_the_data(tracking):
    run_id = start_run(tracking, "name", Config().model_dump(mode="json"), dataset=DATA, tags={"kind": "train"})
    finish_run(run_id, uri=tracking.uri)
    run = client(tracking.uri).get_run(run_id)
    assert run.info.run_name == "name" and run.info.status == "FINISHED"
    assert run.data.params["train.optimizer.lr"] == "0.003"
    assert run.data.params["train.optimizer.betas"] == "[0.9, 0.95]"
    assert run.data.tags["data.fingerprint"] == "f" * 64
    assert run.data.tags["kind"] == "train"
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    (read,) = run.inputs.dataset_inputs
    assert read.dataset.digest == "f" * 36 and json.loads(read.dataset.profile) == {"rows": 12}


def test_a_resumed_run_keeps_its_params_and_notes_what_changed(tracking):
    run_id = start_run(tracking, "name", {"steps": 5, "lr": 1.0}, dataset=DATA)
    finish_run(run_id, "FAILED", uri=tracking.uri)
    assert start_run(tracking, "name", {"steps": 9, "lr": 1.0, "new": 1}, dataset=DATA, resume=run_id) == run_id
    run = client(tracking.uri).get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"steps": "5", "lr": "1.0", "new": "1"}
    assert run.data.tags["resumed.steps"] == "9" and "resumed.lr" not in run.data.tags
    assert len(run.inputs.dataset_inputs) == 1


def test_a_run_ends_as_its_block_ends(tracking):
    ends = [
        ("FINISHED", None),
        ("FAILED", MTPError("no")),
        ("KILLED", KeyboardInterrupt()),
        ("KILLED", StoppedError("saved")),
    ]
    for status, error in ends:
        run_id = start_run(tracking, status, {})
        with suppress(MTPError, KeyboardInterrupt), ending_run(run_id, uri=tracking.uri):
            if error:
                raise error
        assert client(tracking.uri).get_run(run_id).info.status == status


def test_the_history_of_a_run_has_every_metric(tracking):
    run_id = start_run(tracking, "name", {})
    for step in range(3):
        client(tracking.uri).log_metric(run_id, "train/loss", 3.0 - step, step=step)
    assert metric_history(run_id, uri=tracking.uri) == {"train/loss": [(0, 3.0), (1, 2.0), (2, 1.0)]}


def test_resuming_a_run_that_does_not_exist_is_an_error(tracking):
    with pytest.raises(UsageError, match="no run 'feed'"):
        start_run(tracking, "name", {}, resume="feed")


def test_figures_and_tables_are_kept_as_files(local_tracking):
    from matplotlib.figure import Figure

    run_id = start_run(local_tracking, "name", {})
    log_figures(run_id, {"loss.png": Figure()}, uri=local_tracking.uri)
    log_json(run_id, "report.json", {"a": 1}, uri=local_tracking.uri)
    log_table(run_id, "table.json", ("k", "loss"), [(1, 2.5)], uri=local_tracking.uri)
    mlflow = client(local_tracking.uri)
    assert [file.path for file in mlflow.list_artifacts(run_id, "figures")] == ["figures/loss.png"]
    assert {file.path for file in mlflow.list_artifacts(run_id)} == {"figures", "report.json", "table.json"}
    (stored,) = (home() / "artifacts").glob(f"*/{run_id}/artifacts/table.json")
    assert json.loads(stored.read_text()) == {"columns": ["k", "loss"], "data": [[1, 2.5]]}


def test_files_logged_without_a_server_are_there_with_one_and_the_other_way_round(
    own_home, second_server, model_folder
):
    from cluster.ports import free_ports

    alone = TrackingConfig(uri=f"sqlite:///{own_home}/mlflow.db", experiment="first alone")
    before = start_run(alone, "before", {})
    register_model(before, model_folder, "m", "candidate", uri=alone.uri)
    with second_server(own_home, free_ports(1)[0]) as url:
        served = TrackingConfig(uri=url, experiment="first served")
        log_json(before, "late.json", 1, uri=url)
        assert checksums(fetch_model("models:/m@candidate", url)) == checksums(model_folder)
        during = start_run(served, "during", {})
        version = register_model(during, model_folder, "m", uri=url)
    assert checksums(fetch_model(f"models:/m/{version}", alone.uri)) == checksums(model_folder)
    log_json(during, "later.json", 1, uri=alone.uri)
    for run_id, name in ((before, "late.json"), (during, "later.json")):
        assert len(list((own_home / "artifacts").glob(f"*/{run_id}/artifacts/{name}"))) == 1


def test_a_registry_that_is_down_is_one_sentence(own_home, model_folder):
    from cluster.ports import free_ports

    down = TrackingConfig(uri=f"http://127.0.0.1:{free_ports(1)[0]}")
    for call in (
        lambda: start_run(down, "name", {}),
        lambda: fetch_model("models:/m/1", down.uri),
        lambda: register_model("run", model_folder, "m", uri=down.uri),
    ):
        with pytest.raises(MTPError, match=r"does not answer.*mtp up") as caught:
            call()
        assert caught.value.exit_code == 1


def test_many_processes_may_meet_a_fresh_database_at_once(own_home):
    import subprocess
    import sys

    program = """
from mtp.config import TrackingConfig
from mtp.registry import start_run
print(start_run(TrackingConfig(), "x", {}))
"""
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(3)]
    ids = {process.communicate()[0] for process in processes}
    assert len(ids) == 3 and all(process.returncode == 0 for process in processes)


def test_a_database_of_a_newer_mlflow_is_one_sentence(own_home):
    import sqlite3

    uri = f"sqlite:///{own_home}/mlflow.db"
    start_run(TrackingConfig(uri=uri), "name", {})
    newer = own_home / "newer.db"
    newer.write_bytes((own_home / "mlflow.db").read_bytes())
    with sqlite3.connect(newer) as database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    with pytest.raises(MTPError, match=r"newer\.db has a format that this MLflow .* does not know"):
        start_run(TrackingConfig(uri=f"sqlite:///{newer}"), "name", {})
