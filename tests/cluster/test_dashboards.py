"""The Grafana dashboards: the files are the code's, and every query is answered by a Prometheus that watched a run."""

import json
import shutil
import signal
import time

import httpx
import psutil
import pytest
import yaml

from cluster import prometheus
from cluster.dashboard import DASHBOARDS, FOLDER, dashboard
from cluster.ports import free_ports
from mtp.config import ClusterConfig, ServeConfig, dump_config
from mtp.train.published import series_of
from tests.serve.conftest import wait_for
from tests.serve.load import Load
from tests.train.datasets import write_dataset
from tests.train.fits import new_run, settings
from tests.train.test_faults import Driver

LONGER_THAN_A_BLOCK = "def f(x):\n    return x + 1\n"
"""So that it is looked up in the prefix cache."""


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_file_is_what_the_code_writes(name):
    assert json.loads((FOLDER / f"{name}.json").read_text()) == dashboard(name)


def test_metrics_are_published_by_name_and_horizon_and_those_of_machines_are_not():
    assert series_of("train/tokens_per_s") == ("mtp_train_tokens_per_s", "")
    assert series_of("train/loss_h2") == ("mtp_train_loss_per_horizon", "2")
    assert series_of("eval/agreement_h3") == ("mtp_eval_agreement_per_horizon", "3")
    assert series_of("system/node_1/cpu_utilization_percentage") is None


def queries(*names):
    """(panel, query), with all that a user may choose chosen."""
    for name in names:
        for panel in dashboard(name)["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "2m").replace("$__range", "30m")
                for variable in DASHBOARDS[name][1]:
                    query = query.replace(f"${variable}", ".*")
                yield f"{name}: {panel['title']}", query


def unanswered(url, *names):
    """The panels without a line, and why."""
    found = {}
    for panel, query in queries(*names):
        answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30).json()
        if answer["status"] != "success":
            found[panel] = answer["error"]
        elif not answer["data"]["result"]:
            found[panel] = f"nothing for {query}"
    return found


def wait_for_all(url, *names):
    """Until every panel has a line; nodes report and are scraped every few seconds."""
    deadline = time.monotonic() + 180
    while missing := unanswered(url, *names):
        assert time.monotonic() < deadline, json.dumps(missing, indent=2)
        time.sleep(5)


@pytest.fixture
def watched(ray_cluster):
    """The URL of a Prometheus that watches the session's cluster."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (on Debian: apt install prometheus)")
    config = ClusterConfig(prometheus_port=free_ports(1)[0])
    server = psutil.Process(prometheus.start(ray_cluster, config).pid)
    yield prometheus.url(config)
    server.terminate()
    server.wait(30)


@pytest.mark.long
def test_every_panel_shows_a_line_for_a_training_and_an_endpoint_that_run(watched, ray_cluster, tmp_path):
    write_dataset(tmp_path / "data")
    config = settings(tmp_path, "watched", steps=100_000, evaluate_every=50)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    run_id = new_run(ray_cluster.mlflow_url)
    driver = Driver(tmp_path / "config.yaml", run_id).until_step(60)
    try:
        wait_for_all(watched, "training", "data")
        begun, logging, ended = stalled_training()
        assert "watched" in names_of_runs(watched, begun) & names_of_runs(watched, logging)
        assert "watched" not in names_of_runs(watched, ended)
    finally:
        driver.end(signal.SIGTERM)
    wait_for(lambda: "watched" in names_of_runs(watched, ended))

    write_model(tmp_path / "toy")
    from serve.deploy import deploy, undeploy

    url = deploy(str(tmp_path / "toy"), ServeConfig(port=free_ports(1)[0], num_cpus=0.25, max_batch_size=4))
    try:
        with Load(url, "toy", width=2, prompt=LONGER_THAN_A_BLOCK, max_tokens=24):
            wait_for_all(watched, "serving")
    finally:
        undeploy()


def stalled_training():
    """The parts of the alert's condition: who has begun, unless they log steps, unless they have ended."""
    (group,) = yaml.safe_load((FOLDER.parent / "alerts.yaml").read_text())["groups"]
    return next(rule["expr"] for rule in group["rules"] if rule["alert"] == "TrainingStalled").split("unless on (run)")


def names_of_runs(url, query):
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30).json()
    return {line["metric"]["run"] for line in answer["data"]["result"]}


def write_model(folder):
    import torch

    from mtp.checkpoint import save_model
    from mtp.model import MTPModel
    from tests.decode.tiny import KINDS, tiny_config
    from tests.train.datasets import small_tokenizer

    torch.manual_seed(0)
    tokenizer = small_tokenizer()
    save_model(folder, MTPModel(tiny_config(KINDS["sequential"], vocab_size=tokenizer.vocab_size)), tokenizer)
