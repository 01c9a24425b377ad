"""A state folder of a test's own, for clusters other than the session's."""

import os

import pytest

from cluster.state import ClusterState, Daemon


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MTP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def dead_state(own_home):
    """What a reboot leaves: a state file whose processes are gone, or are others by now."""
    daemons = {
        name: Daemon(pid=os.getpid(), started=1.0, log=own_home / "x.log") for name in ("gcs", "raylet", "mlflow")
    }
    state = ClusterState(
        cluster_id="0" * 32,
        ray_address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:2",
        mlflow_url="http://127.0.0.1:3",
        token_file=own_home / "ray_token",
        ray_temp_dir=own_home / "ray",
        daemons=daemons,
    )
    state.save()
    return state
