"""What `mtp status` makes of its servers' answers; test_local.py and tests/cli show it on a live cluster."""

import http.server
import os
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from cluster.processes import start_time
from cluster.serving_status import applications, endpoints
from cluster.state import ClusterState, Daemon
from cluster.status import status
from mtp.cli.status_screen import screen

URI = "models:/toy/{}"


def route(version, weight):
    return {"name": "toy", "app": f"mtp-toy-{version}", "uri": URI.format(version), "weight": weight}


def version_of_two():
    replicas = [{"state": "RUNNING"}, {"state": "STARTING"}]
    deployment = {"replicas": replicas, "target_num_replicas": 2, "deployment_config": {"user_config": None}}
    return {"status": "RUNNING", "route_prefix": None, "message": "", "deployments": {"replica": deployment}}


@pytest.fixture
def served():
    """As the dashboard tells it: a version with a canary beside it."""
    told = {"routes": [route(1, 90), route(2, 10) | {"follows": "models:/toy@champion"}], "notes": {"toy": "3 fails"}}
    gateway = {"replicas": [{"state": "RUNNING"}], "target_num_replicas": 1, "deployment_config": {"user_config": told}}
    return {
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": {
            "mtp": {"status": "RUNNING", "route_prefix": "/", "message": "", "deployments": {"gateway": gateway}},
            "mtp-toy-1": version_of_two(),
            "mtp-toy-2": version_of_two() | {"status": "DEPLOYING"},
        },
    }


def test_an_endpoint_is_told_with_its_version_its_share_and_its_replicas(served):
    main, canary = endpoints(served)
    assert (main["model"], main["version"], main["share_percent"], main["url"]) == (
        "toy", "models:/toy/1", 90.0, "http://127.0.0.1:8000",
    )  # fmt: skip
    assert (canary["share_percent"], canary["status"], canary["follows"]) == (10.0, "deploying", "models:/toy@champion")
    assert (main["replicas"], main["replicas_wanted"]) == (1, 2)
    assert [row["url"] for row in applications(served)] == ["http://127.0.0.1:8000", None, None]


def test_the_screen_shows_all_of_it_and_takes_no_name_for_markup(served):
    model = {"name": "[red]toy", "aliases": {"champion": 1}, "newest": 2}
    job = {"id": "job-1", "job": "train", "status": "failed", "started": "2026", "exit_code": 1}
    found = status_of(
        endpoints=endpoints(served), models=[model], jobs=[job] * 7, unreachable={"nodes": "TimeOut: [x]"}
    )
    console = Console(width=140, record=True)
    console.print(screen(found))
    text = console.export_text()
    for shown in ("models:/toy/1", "90 %", "1/2", "3 fails", "[red]toy", "champion = 1", "and 2 older ones", "[x]"):
        assert shown in text, shown
    assert len(text.splitlines()) < 30


def status_of(**changes):
    parts = {"servers": {}, "nodes": [], "jobs": [], "models": [], "endpoints": [], "urls": {}, "unreachable": {}}
    return {"cluster": "up", **parts, **changes}


class Silly(http.server.BaseHTTPRequestHandler):
    """A server that answers everything, and nothing of use."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_):
        pass


def test_what_a_server_does_not_answer_is_named_and_the_rest_is_whole(own_home):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silly)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    mine = Daemon(pid=os.getpid(), started=start_time(os.getpid()), log=own_home / "x.log")
    state = ClusterState(
        cluster_id="0" * 32,
        ray_address="127.0.0.1:1",
        dashboard_url=f"http://127.0.0.1:{server.server_port}",
        mlflow_url="http://127.0.0.1:2",
        token_file=own_home / "ray_token",
        ray_temp_dir=own_home / "ray",
        daemons=dict.fromkeys(("gcs", "raylet", "dashboard", "mlflow"), mine),
    )
    state.save()
    state.token_file.write_text("secret")
    try:
        found = status()
    finally:
        server.shutdown()
        server.server_close()
    assert found["cluster"] == "up" and set(found["unreachable"]) == {"nodes", "jobs", "models", "endpoints"}
    assert found["urls"] == {"dashboard": state.dashboard_url, "MLflow": state.mlflow_url}
    assert all(server["running"] for server in found["servers"].values())


def test_a_status_imports_neither_ray_nor_mlflow_nor_torch(own_home):
    look = (
        "import sys; from mtp.cli.cluster import status; status(); print({'ray', 'mlflow', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
