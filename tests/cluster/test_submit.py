"""Jobs on a real cluster, through its job server."""

import signal
import subprocess
import sys
import time

import httpx
import pytest

from cluster.staging import staged, with_absolute_paths
from cluster.status import status
from cluster.submit import follow, list_jobs, logs, send, stop, submit
from mtp.config import build_config
from mtp.errors import MTPError, UsageError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job").mkdir()
    return tmp_path / "job"


def finished(job_id):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        row = next(row for row in list_jobs() if row["id"] == job_id)
        if row["status"] not in ("pending", "running"):
            return row
        time.sleep(0.2)
    raise AssertionError(f"{job_id} does not end")


def test_the_log_is_followed_to_its_end_and_the_exit_code_is_the_jobs(ray_cluster, folder, capfd):
    (folder / "count.py").write_text("import sys\nfor i in range(3): print('line', i)\nsys.exit(int(sys.argv[1]))")
    good, bad = (send("count", f"python count.py {code}", str(folder)) for code in (0, 3))
    assert follow(good) == 0
    assert "line 0\nline 1\nline 2\n" in capfd.readouterr().out
    assert follow(bad) == 3
    assert "failed with exit code 3" in capfd.readouterr().err
    assert "line 2" in logs(bad)
    rows = {row["id"]: row for row in list_jobs()}
    assert (rows[good]["status"], rows[good]["exit_code"], rows[good]["job"]) == ("succeeded", 0, "count")
    assert (rows[bad]["status"], rows[bad]["exit_code"]) == ("failed", 3)
    assert {job["id"]: job["status"] for job in status()["jobs"]}[bad] == "failed"


def test_a_job_and_its_tasks_find_the_staged_source_and_the_registry(ray_cluster, folder, capfd):
    program = """
import os, ray, mtp, jobs
ray.init(logging_level="warning", configure_logging=False)
@ray.remote
def where():
    import mtp
    return mtp.__file__, os.environ["MLFLOW_TRACKING_URI"], len(os.environ["MTP_SOURCE_COMMIT"])
print(mtp.__file__, *ray.get(where.remote()))
"""
    with staged(build_config({})) as source:
        (source / "probe.py").write_text(program)
        job_id = send("probe", "python probe.py", str(source))
    assert follow(job_id) == 0
    driver, task, registry, commit = capfd.readouterr().out.splitlines()[-1].split()
    assert driver == task and str(ray_cluster.ray_temp_dir) in driver
    assert (registry, commit) == (ray_cluster.mlflow_url, "40")


def test_a_jobs_command_line_runs_in_the_staged_folder(ray_cluster, capfd):
    with staged(build_config({})) as source:
        job_id = send("prepare", "python -m jobs.prepare --config absent.yaml", str(source))
    assert follow(job_id) == 2
    assert "cannot read the configuration absent.yaml" in capfd.readouterr().out


def test_the_staged_folder_holds_source_and_configuration_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = build_config({"data": {"path": "prepared", "corpus": "s3://bucket/text"}})
    with staged(config) as source:
        assert sorted(path.name for path in source.iterdir()) == ["cluster", "config.yaml", "jobs", "platform", "serve"]
        assert [path.name for path in (source / "platform").iterdir()] == ["mtp"]
        assert not list(source.rglob("__pycache__"))
        assert sum(path.stat().st_size for path in source.rglob("*")) < 5_000_000
        assert f"path: {tmp_path}/prepared" in (source / "config.yaml").read_text()
    assert with_absolute_paths(config).data.corpus == "s3://bucket/text"
    assert not source.exists()


def test_interrupting_the_follower_leaves_the_job_running_until_it_is_stopped(ray_cluster, folder):
    job_id = send("sleep", "echo begun; sleep 300", str(folder))
    program = f"import sys; from cluster.submit import follow; sys.exit(follow({job_id!r}))"
    follower = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in follower.stdout:
        if "begun" in line:
            break
    follower.send_signal(signal.SIGINT)
    _, errors = follower.communicate(timeout=30)
    assert follower.returncode == 130
    assert f"mtp jobs stop {job_id}" in errors and "Traceback" not in errors
    assert next(row for row in list_jobs() if row["id"] == job_id)["status"] == "running"
    assert stop(job_id)
    assert finished(job_id)["status"] == "stopped"
    assert follow(job_id) == 1


def test_unknown_jobs_are_named_beside_known_ones(ray_cluster):
    with pytest.raises(UsageError, match="no job 'trian'; there are: prepare, train"):
        submit("trian", build_config({}))
    for act in (follow, logs, stop):
        with pytest.raises(UsageError, match="no job 'job-0' on this cluster"):
            act("job-0")


def test_submitting_without_a_cluster_is_one_sentence(own_home):
    with pytest.raises(MTPError, match="start one with `mtp up`"):
        submit("train", build_config({}))


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer " + "0" * 64}])
def test_a_submit_without_the_token_is_refused(ray_cluster, headers):
    answer = httpx.post(f"{ray_cluster.dashboard_url}/api/jobs/", json={"entrypoint": "true"}, headers=headers)
    assert answer.status_code in (401, 403)


def test_a_token_that_is_wrong_is_one_sentence(ray_cluster, monkeypatch):
    from cluster.state import ClusterState

    monkeypatch.setattr(ClusterState, "token", lambda self: "0" * 64)
    with pytest.raises(MTPError, match=r"refuses the token in .*ray_token; start the cluster anew"):
        list_jobs()
