"""`mtp doctor` and `mtp logs`: what they find on this very machine."""

import json
import os
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cluster import logs
from cluster.doctor import examine
from cluster.processes import MARKER
from mtp.cli.app import app
from mtp.config import build_config
from mtp.errors import UsageError


def findings(*overrides):
    return {one.check: one for one in examine(build_config({}, overrides))}


def test_this_machine_has_all_that_is_needed(own_home):
    found = findings()
    assert {found[name].state for name in ("python", "ray", "torch", "deepspeed", "mlflow", "pyarrow")} == {"good"}
    assert all(one.fix for one in found.values() if one.state != "good")
    assert not any(one.fix for one in found.values() if one.state == "good")
    assert not own_home.exists(), "a look changes nothing"


def test_a_port_in_use_is_found_and_named(own_home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = findings(f"cluster.mlflow_port={port}")["cluster.mlflow_port"]
    assert (found.state, found.fix) == ("bad", "give cluster.mlflow_port=PORT another one")


def test_a_registry_that_does_not_answer_and_too_little_shared_memory_are_found(own_home):
    found = findings("tracking.uri=http://127.0.0.1:9", "cluster.object_store_mb=100000000")
    assert found["registry"].state == "bad" and "127.0.0.1:9 does not answer" in found["registry"].found
    assert found["shared memory"].state == "bad" and "--shm-size" in found["shared memory"].fix


def test_a_dead_cluster_and_processes_of_a_forgotten_one_are_found(dead_state):
    left = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, MARKER: "f" * 32}
    )
    try:
        found = findings()
    finally:
        left.communicate(b"\n")
    assert found["cluster"].state == "bad" and "mtp up starts it anew" in found["cluster"].fix
    assert found["processes"].fix == f"end them: kill {left.pid}"


def test_the_command_exits_with_1_if_something_is_bad_and_prints_json(own_home):
    good = CliRunner().invoke(app, ["doctor", "--json", "cluster.object_store_mb=100"])
    bad = CliRunner().invoke(app, ["doctor", "--json", "tracking.uri=http://127.0.0.1:9"])
    assert {"check", "state", "found", "fix"} == set(json.loads(bad.stdout)[0])
    assert bad.exit_code == 1
    assert good.exit_code == any(one["state"] == "bad" for one in json.loads(good.stdout))


def test_logs_are_listed_and_their_last_lines_printed(own_home):
    (own_home / "logs").mkdir(parents=True)
    (own_home / "logs" / "mlflow.log").write_text("one\ntwo\nthree\n")
    assert list(logs.servers()) == ["mlflow"]
    done = CliRunner().invoke(app, ["logs", "mlflow", "--lines", "2"])
    assert done.stdout == "two\nthree\n"
    with pytest.raises(UsageError, match=r"no log of 'ray'.* there are: mlflow"):
        logs.require("ray")
