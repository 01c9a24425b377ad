"""What commands do beside their work: metrics that wait, imports that fail, Ctrl-C at a terminal."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from cluster.submit import INTERRUPTED, list_jobs, send, stop
from mtp.checkpoint import export_hf, save_model
from mtp.cli.cluster import settle_metrics
from mtp.cli.models import import_
from mtp.config import ModelConfig, TrackingConfig
from mtp.errors import UsageError
from mtp.model import MTPModel
from mtp.registry import metric_history, start_run
from mtp.registry.connection import client
from mtp.registry.spool import Point, Spool
from tests.train.datasets import small_tokenizer
from tests.train.small import SIZES


def owed(uri, run_id):
    spool = Spool(uri, run_id)
    with spool.locked():
        spool.append([Point("train/loss", 1.0, 1, 7)])
    return spool


def test_metrics_that_wait_are_sent_when_the_cluster_is_up(mlflow_uri, capfd):
    run_id = start_run(TrackingConfig(uri=mlflow_uri), "waiting", {})
    owed(mlflow_uri, run_id)
    settle_metrics(mlflow_uri)
    assert metric_history(run_id, uri=mlflow_uri) == {"train/loss": [(7, 1.0)]}
    assert "Sent 1 metric values" in capfd.readouterr().err


def test_metrics_that_the_registry_refuses_do_not_fail_the_command(mlflow_uri, capfd):
    spool = owed(mlflow_uri, "0" * 32)
    settle_metrics(mlflow_uri)
    assert "still wait to be sent" in capfd.readouterr().err
    assert spool
    spool.clear()


def test_an_import_that_cannot_be_registered_leaves_no_running_run(mlflow_uri, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    model = MTPModel(ModelConfig.model_validate({**SIZES, "vocab_size": 300, "n_routed_experts": 4}))
    save_model(tmp_path / "model", model, small_tokenizer())
    export_hf(tmp_path / "model", tmp_path / "public-import")
    with pytest.raises(UsageError, match="cannot name a registered model"):
        import_(tmp_path / "public-import", "a/b")
    mlflow = client(mlflow_uri)
    experiment = mlflow.get_experiment_by_name(TrackingConfig().experiment).experiment_id
    (run,) = mlflow.search_runs([experiment], "attributes.run_name = 'import public-import'")
    assert run.info.status == "FAILED"


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", "stopped"), (b"\n", "running")])
def test_ctrl_c_at_a_terminal_asks_whether_to_stop_the_job(ray_cluster, tmp_path, answer, status):
    job_id = send("sleep", "echo begun; sleep 300", str(tmp_path))
    program = (
        "import sys; from cluster.submit import follow; from mtp.cli.jobs import wants_stop\n"
        f"sys.exit(follow({job_id!r}, wants_stop))"
    )
    ours, theirs = pty.openpty()
    follower = subprocess.Popen([sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    read_until(ours, b"begun")
    follower.send_signal(signal.SIGINT)
    read_until(ours, b"Stop the job too?")
    os.write(ours, answer)
    read_until(ours, b"Asked" if status == "stopped" else b"goes on")
    assert follower.wait() == INTERRUPTED
    os.close(ours)
    row = next(row for row in list_jobs() if row["id"] == job_id)
    assert row["status"] in (status, "running")
    if status == "running":
        assert stop(job_id)


def read_until(terminal, words):
    said = b""
    while words not in said:
        said += os.read(terminal, 4096)
    return said
