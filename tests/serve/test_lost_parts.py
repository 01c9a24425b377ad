"""Parts of the endpoint killed, and clients that misbehave by the thousand, under sixteen streams: who notices.

`python -m pytest -s tests/serve/test_lost_parts.py` prints the figures of docs/reliability.md.
"""

import os
import signal
import socket
import threading
import time

import httpx
import psutil
import pytest
import torch

from mtp.checkpoint import load_model, save_model
from mtp.config import ClusterConfig, ServeConfig
from mtp.decode.probe import own_rows, record_probe
from mtp.tokenizer import Tokenizer
from tests.serve.conftest import value_of, wait_for
from tests.serve.load import GREEDY, Load
from tests.serve.test_rollout import replica_pids

POISON = 200
"""A token at which the poisoned model overflows."""
CONNECTS = 10_000


@pytest.fixture(scope="module")
def roomy(endpoint, model_folder, endpoint_keys):
    """The endpoint, serving `roomy` on two replicas too, which take more than any test sends."""
    from serve.deploy import deploy, undeploy

    deploy(str(model_folder), settings(endpoint, endpoint_keys), name="roomy")
    yield endpoint
    undeploy(model="roomy")


def settings(endpoint, keys, **changes):
    values = {"num_replicas": 2, "num_cpus": 0.1, "max_ongoing_requests": 500, "max_queued_requests": 5000}
    return ServeConfig(port=int(endpoint.rpartition(":")[2]), api_keys=str(keys.path), **values | changes)


def text_of(client, model="roomy"):
    answer = client.post("/v1/completions", json=GREEDY | {"model": model})
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()["choices"][0]["text"]


def nothing_runs(client):
    return value_of(client.get("/metrics").text, "mtp_num_requests_running") == 0


class Outage:
    """How long connections were refused."""

    def __init__(self, url):
        self._url, self._stop, self.refused = url, threading.Event(), []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    @property
    def seconds(self):
        """From the first refused connection to the last one."""
        return self.refused[-1] - self.refused[0] if self.refused else 0.0

    def _run(self):
        host, _, port = self._url.removeprefix("http://").partition(":")
        while not self._stop.wait(0.05):
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                self.refused.append(time.monotonic())


@pytest.mark.long
def test_a_killed_proxy_comes_back_by_itself_and_breaks_no_text(roomy, client):
    expected = text_of(client)
    with Outage(roomy) as outage, Load(roomy, "roomy", pause_s=0.2) as load:
        wait_for(lambda: len(load.texts) >= 16)
        os.kill(proxy_pid(), signal.SIGKILL)
        wait_for(lambda: outage.refused)
        wait_for(lambda: time.monotonic() > outage.refused[-1] + 3, seconds=120)
        done = len(load.texts)
        wait_for(lambda: len(load.texts) >= done + 32)
    print(f"connections were refused for {outage.seconds:.1f} s")
    assert set(load.texts) == {expected}
    assert load.faults, "the streams of the killed proxy cannot have gone on"
    wait_for(lambda: nothing_runs(client))


@pytest.mark.long
def test_replicas_killed_one_after_the_other_cost_no_stream_and_change_no_text(roomy, client):
    expected = text_of(client)
    with Load(roomy, "roomy") as load:
        for _ in range(6):
            wait_for(lambda: len(replica_pids("roomy")) == 2, seconds=120)
            wait_for_more(load, 16)
            os.kill(replica_pids("roomy")[0], signal.SIGKILL)
            wait_for_more(load, 32)
    assert load.faults == []
    assert set(load.texts) == {expected}


@pytest.mark.long
def test_a_frozen_replica_costs_no_stream_and_changes_no_text(endpoint, endpoint_keys, model_folder, client):
    from serve.deploy import deploy, undeploy

    # One at a time, so that most of the streams have been taken and wait in the engine when it freezes.
    deploy(str(model_folder), settings(endpoint, endpoint_keys, max_batch_size=1), name="narrow")
    try:
        expected = text_of(client, "narrow")
        wait_for(lambda: len(replica_pids("narrow")) == 2, seconds=120)
        frozen, before = replica_pids("narrow")[0], resumed(client)
        with Load(endpoint, "narrow") as load:
            wait_for_more(load, 16)
            os.kill(frozen, signal.SIGSTOP)
            try:  # Ray Serve's own health check takes a minute and a half to give it up
                wait_for(lambda: resumed(client) > before, seconds=75)
            finally:
                os.kill(frozen, signal.SIGKILL)  # sets free what was sent to it and never taken
            wait_for_more(load, 32)
        assert load.faults == []
        assert set(load.texts) == {expected}
        wait_for(lambda: nothing_runs(client))
    finally:
        undeploy(model="narrow")


def resumed(client):
    return value_of(client.get("/metrics").text, "mtp_requests_resumed_total")


def wait_for_more(load, streams):
    whole = len(load.texts) + streams
    wait_for(lambda: len(load.texts) >= whole)


def proxy_pid():
    from ray.util.state import list_actors

    (proxy,) = list_actors(filters=[("class_name", "=", "ProxyActor"), ("state", "=", "ALIVE")])
    return proxy.pid


@pytest.mark.long
def test_a_killed_node_costs_no_stream_and_changes_no_text(endpoint, endpoint_keys, model_folder, client):
    from cluster.local import up
    from serve.deploy import deploy, undeploy

    state = up(ClusterConfig(nodes=1, cpus_per_node=1, object_store_mb=100))
    deploy(str(model_folder), settings(endpoint, endpoint_keys, num_cpus=0.5), name="spread")
    try:
        expected = text_of(client, "spread")
        node = psutil.Process(state.nodes["node-1"].pid)
        there = {process.pid for process in node.children(recursive=True)}
        assert len(there & set(replica_pids("spread"))) == 1, "the replicas are not on two nodes"
        with Load(endpoint, "spread") as load:
            wait_for(lambda: len(load.texts) >= 16)
            for process in [node, *node.children(recursive=True)]:
                process.kill()
            done = len(load.texts)
            wait_for(lambda: len(load.texts) >= done + 48)
            wait_for(lambda: len(set(replica_pids("spread")) - there) == 2)
        assert load.faults == []
        assert set(load.texts) == {expected}
    finally:
        undeploy(model="spread")


@pytest.mark.long
def test_a_poisoned_request_fails_alone_and_its_batchmates_say_what_they_say_alone(
    endpoint, endpoint_keys, model_folder, tmp_path, client
):
    from serve.deploy import deploy, undeploy

    folder = poisoned(model_folder, tmp_path / "poisoned")
    deploy(str(folder), settings(endpoint, endpoint_keys, num_replicas=1, max_batch_size=24), name="poisoned")
    try:
        expected = text_of(client, "poisoned")
        with Load(endpoint, "poisoned") as load:
            for length in range(1, 41):
                body = {"model": "poisoned", "prompt": [5] * length + [POISON], "max_tokens": 4}
                answer = client.post("/v1/completions", json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (500, "decoding_failed")
            done = len(load.texts)
            wait_for(lambda: len(load.texts) >= done + 32)
        assert load.faults == []
        assert set(load.texts) == {expected}
    finally:
        undeploy(model="poisoned")


def poisoned(model_folder, folder):
    """A model that is sound but for one token, whose latent overflows to NaN in the first layer, and in the cache."""
    model = load_model(model_folder)
    embedding = model.model.embed_tokens.weight
    with torch.no_grad():
        embedding[:, 0] = 0.0
        model.model.layers[0].self_attn.kv_a_proj_with_mqa.weight[0, 0] = 3e38
        rows = [row[:16] for row in own_rows(model) if POISON not in row[:16]]
        embedding[POISON, 0] = 1.0
    save_model(folder, model, Tokenizer.load(model_folder))
    record_probe(folder, model, rows)
    return folder


@pytest.mark.long
def test_ten_thousand_connects_and_disconnects_leave_the_streams_beside_them_and_nothing_behind(roomy, client):
    expected = text_of(client)
    gateway = psutil.Process(proxy_pid())
    files = gateway.num_fds()
    with Load(roomy, "roomy") as load:
        threads = [threading.Thread(target=come_and_go, args=(roomy, CONNECTS // 8)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = len(load.texts)
        wait_for(lambda: len(load.texts) >= done + 16, seconds=120)
    assert load.faults == []
    assert set(load.texts) == {expected}
    wait_for(lambda: nothing_runs(client), seconds=120)
    wait_for(lambda: gateway.num_fds() < files + 50)


def come_and_go(url, times):
    """Connect and leave: at once, in the middle of a header, or with a long request sent and nothing read."""
    body = b'{"model": "roomy", "prompt": "x", "max_tokens": 100, "stream": true, "ignore_eos": true}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    sent = [b"", b"POST /v1/completions HTTP/1.1\r\nHost:", head % len(body) + body[:20], head % len(body) + body]
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    for number in range(times):
        with socket.create_connection(address, timeout=60) as connection:
            connection.sendall(sent[number % len(sent)])
