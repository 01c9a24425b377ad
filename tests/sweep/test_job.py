"""The sweep job on a real cluster: child runs, table, figure; failures stop no other trial; nothing runs twice."""

import pytest

from jobs.sweep import PARENT, run
from mtp.config import build_config
from mtp.registry.connection import client
from tests.train.datasets import write_dataset
from tests.train.small import SIZES


@pytest.mark.long
def test_a_sweep_reports_a_failing_trial_and_runs_no_finished_one_again(ray_cluster, mlflow_uri, tmp_path):
    write_dataset(tmp_path / "data")

    def settings(**parameters):
        return build_config(
            {
                "data": {"path": str(tmp_path / "data"), "seq_len": 32, "vocab_size": 300},
                "model": {**SIZES, "vocab_size": 300},
                "train": {
                    "storage_path": str(tmp_path / "runs"), "num_workers": 1, "steps": 6, "batch_size": 8,
                    "log_every": 3, "evaluate_rows": 8,
                },
                "tracking": {"uri": mlflow_uri},
                "sweep": {"parameters": parameters},
            }
        )  # fmt: skip

    ended = []
    # Rows of 64 tokens are not what the data set holds: the trial fails where only a trial can see it.
    report = run(settings(**{"data.seq_len": [32, 64]}), lambda *event: ended.append(event))
    assert (report.finished, report.failed, report.reused) == (1, 1, 0)
    assert "rows of 32 tokens, but data.seq_len is 64" in report.trials[1].error
    assert report.best is not None and report.best.values == {"data.seq_len": 32}
    assert [done for _, done, _ in ended] == [1, 2]

    mlflow = client(mlflow_uri)
    child = mlflow.get_run(report.best.run_id)
    assert child.data.tags[PARENT] == report.parent_run_id
    assert child.data.metrics["eval/loss_h1"] == pytest.approx(report.best.value)
    names = {artifact.path for artifact in mlflow.list_artifacts(report.parent_run_id)}
    assert {"sweep.json", "figures"} <= names
    assert mlflow.get_run(report.parent_run_id).info.status == "FINISHED"

    again = run(settings(**{"data.seq_len": [32]}), lambda *event: pytest.fail("a finished trial ran again"))
    assert again.reused == 1 and again.best == report.best and again.parent_run_id == report.parent_run_id
