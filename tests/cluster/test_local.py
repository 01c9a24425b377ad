"""The life of a local cluster: what `up`, `down` and their failures leave behind."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cluster.local import connect, down, load_state, require_state, up
from cluster.ports import free_ports
from cluster.processes import is_running, members, start_time
from cluster.state import ClusterState
from cluster.status import status
from mtp.config import ClusterConfig
from mtp.errors import MTPError, UsageError

UP = """
import json, sys
from cluster.local import up
from mtp.config import ClusterConfig
up(ClusterConfig(**json.loads(sys.argv[1])), on_progress=lambda text: print(text, flush=True))
"""


def config(**changes):
    ports = dict(zip(("ray_port", "dashboard_port", "mlflow_port"), free_ports(3), strict=True))
    return ClusterConfig(**{**ports, "num_cpus": 1, "object_store_mb": 100, **changes})


def start_up(settings):
    """`up` in a process of its own, as the command line runs it."""
    arguments = [sys.executable, "-c", UP, settings.model_dump_json()]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_raylet():
    """Until the cluster being started has a raylet; returns its state."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = ClusterState.load()
        if state is not None and any(process.name() == "raylet" for process in members(state.cluster_id)):
            return state
        time.sleep(0.05)
    raise AssertionError("no raylet came")


def test_workers_find_the_source_folders_and_the_cluster_is_joined(ray_cluster):
    import ray

    @ray.remote
    def where() -> str:
        import jobs
        import mtp.config

        return f"{mtp.config.__name__} {jobs.__name__}"

    assert ray.get(where.remote()) == "mtp.config jobs"


def test_up_again_finds_the_running_cluster(ray_cluster):
    assert up(config()) == ray_cluster
    assert connect() == ray_cluster


def test_every_port_listens_on_the_loopback_address_alone(ray_cluster):
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in members(ray_cluster.cluster_id)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 5
    assert set(listening) == {"127.0.0.1"}


def test_the_token_is_private_and_on_no_command_line(ray_cluster):
    assert ray_cluster.token_file.stat().st_mode & 0o777 == 0o600
    token = ray_cluster.token()
    assert len(token) == 64
    for process in members(ray_cluster.cluster_id):
        assert token not in " ".join(process.cmdline())


def test_status_shows_the_cluster(ray_cluster):
    found = status()
    assert found["cluster"] == "up" and found["unreachable"] == {}
    (node,) = found["nodes"]
    assert (node["state"], node["head"], node["cpus"]) == ("alive", True, 4)
    assert all(server["running"] for server in found["servers"].values())
    json.dumps(found)


def test_without_a_cluster_status_says_down_and_down_does_nothing(own_home):
    assert status()["cluster"] == "down"
    assert down() == []
    with pytest.raises(MTPError, match="no local cluster is running; start one with `mtp up`"):
        require_state()


def test_a_port_in_use_is_named_with_its_key_and_nothing_is_started(own_home, ray_cluster):
    taken = int(ray_cluster.mlflow_url.rsplit(":", 1)[1])
    with pytest.raises(UsageError, match=rf"port {taken} is in use .* set cluster\.mlflow_port"):
        up(config(mlflow_port=taken))
    with pytest.raises(UsageError, match=r"cluster\.ray_port and cluster\.dashboard_port are both 24000"):
        up(config(ray_port=24000, dashboard_port=24000))
    assert not (own_home / "cluster.json").exists()


def test_a_state_file_from_before_a_reboot_is_recognised_and_kills_nobody(dead_state):
    assert load_state() is None
    assert status()["cluster"] == "broken"
    assert down() == []
    assert ClusterState.load() is None


def test_setting_the_clock_makes_no_process_another_one(monkeypatch):
    started, boot_time = start_time(os.getpid()), psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_time + 3600)
    assert psutil.boot_time() == boot_time + 3600
    assert is_running(os.getpid(), started)
    assert not is_running(os.getpid(), started + 1)


def test_a_broken_cluster_is_stopped_as_a_whole_after_its_command_has_ended(own_home):
    settings = config()
    command = start_up(settings)
    output, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    assert "Waiting for Ray" in output
    state = load_state()
    assert state is not None and state.ray_temp_dir.is_dir()
    assert len(str(state.ray_temp_dir)) < 40

    killed = [psutil.Process(state.daemons[name].pid) for name in ("raylet", "mlflow")]
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=30)
    assert load_state() is None
    assert status()["cluster"] == "broken"
    assert len(members(state.cluster_id)) > 3
    assert len(down()) > 3
    assert members(state.cluster_id) == []
    assert not state.ray_temp_dir.exists() and not (own_home / "cluster.json").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_up_leaves_nothing_and_a_killed_one_nothing_after_down(own_home, sent):
    command = start_up(config())
    state = wait_for_raylet()
    command.send_signal(sent)
    command.communicate(timeout=60)
    assert command.returncode != 0
    if sent == signal.SIGKILL:
        assert load_state() is None
        assert down() != []
    assert members(state.cluster_id) == []
    assert not state.ray_temp_dir.exists() and not (own_home / "cluster.json").exists()


def test_a_server_that_fails_to_start_is_named_with_its_log_and_the_other_is_stopped(own_home):
    own_home.mkdir()
    (own_home / "mlflow.db").write_text("this is no database, and it is long enough to be told from one" * 20)
    with pytest.raises(MTPError, match=r"MLflow ended with exit code .*mlflow\.log"):
        up(config())
    assert not (own_home / "cluster.json").exists()
    running = [process.info for process in psutil.process_iter(["name", "environ"])]
    assert not any(one["name"] == "raylet" and str(own_home) in str(one["environ"]) for one in running)
