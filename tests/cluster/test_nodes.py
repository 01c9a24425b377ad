"""Several nodes on one machine: real raylets that join, die and are replaced; and the Prometheus that watches them."""

import shutil
import time

import httpx
import psutil
import pytest

from cluster.local import down, load_state, up
from cluster.ports import free_ports
from cluster.processes import members
from cluster.status import status
from mtp.config import ClusterConfig

PORTS = ("ray_port", "dashboard_port", "mlflow_port", "prometheus_port")


def settings(**changes):
    return ClusterConfig(**dict(zip(PORTS, free_ports(4), strict=True)), num_cpus=1, object_store_mb=100, **changes)


def alive():
    return sum(node["state"] == "alive" for node in status()["nodes"])


def wait_until(condition):
    deadline = time.monotonic() + 90
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return value


@pytest.mark.long
def test_nodes_join_on_the_loopback_address_and_a_lost_one_is_replaced_by_up_again(own_home):
    config = settings(nodes=1, monitoring=shutil.which("prometheus") is not None)
    try:
        state = up(config)
        assert list(state.nodes) == ["node-1"] and alive() == 2
        listening = {
            connection.laddr.ip.removeprefix("::ffff:")
            for process in members(state.cluster_id)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        if state.prometheus_url:
            query = f"{state.prometheus_url}/api/v1/query"
            scraped = wait_until(lambda: httpx.get(query, params={"query": "up == 1"}).json()["data"]["result"])
            assert {one["metric"]["job"] for one in scraped} == {"ray"}
        lost = psutil.Process(state.nodes["node-1"].pid)
        lost.kill()
        psutil.wait_procs([lost], timeout=30)
        assert load_state() is not None, "a lost node is no broken cluster"
        again = up(config)
        assert again.cluster_id == state.cluster_id and again.nodes["node-1"] != state.nodes["node-1"]
        wait_until(lambda: alive() == 2)
    finally:
        down()
    assert members(state.cluster_id) == []
