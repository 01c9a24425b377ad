"""Monitoring: the alert rules by promtool, and what happens where Prometheus is not installed."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster import prometheus
from cluster.local import up
from cluster.ports import free_ports
from mtp.config import ClusterConfig
from mtp.errors import UsageError


def test_every_alert_fires_on_what_it_is_for_and_not_before(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (it comes with the distribution's prometheus)")
    shutil.copy(prometheus.ALERTS, tmp_path / "alerts.yaml")
    shutil.copy(Path(__file__).parent / "alerts_test.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_says_what_to_do():
    rules = [rule for group in yaml.safe_load(prometheus.ALERTS.read_text())["groups"] for rule in group["rules"]]
    tests = yaml.safe_load((Path(__file__).parent / "alerts_test.yaml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules}
    assert all(rule["annotations"]["action"] and rule["labels"]["severity"] in ("page", "ticket") for rule in rules)


def test_without_prometheus_up_refuses_before_it_starts_anything(own_home, monkeypatch):
    monkeypatch.setenv("PATH", str(own_home))
    ports = dict(zip(("ray_port", "dashboard_port", "mlflow_port", "prometheus_port"), free_ports(4), strict=True))
    with pytest.raises(UsageError, match=r"Prometheus is not installed; install it .* or leave --monitoring out"):
        up(ClusterConfig(**ports, monitoring=True))
    assert not (own_home / "cluster.json").exists()
