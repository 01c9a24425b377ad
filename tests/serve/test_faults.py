"""What clients do wrong, or leave undone, under steady load: nobody else's stream suffers."""

import socket
import time

import httpx
import pytest

from tests.serve.conftest import value_of, wait_for
from tests.serve.load import Load

DISCONNECTS = 200


@pytest.fixture
def expected(client):
    body = {"prompt": "def f(x):", "max_tokens": 80, "temperature": 0, "ignore_eos": True, "model": "toy"}
    return client.post("/v1/completions", json=body).json()["choices"][0]["text"]


def raw_stream(endpoint):
    """A connection that has asked for a long stream and reads nothing."""
    body = b'{"prompt": "x", "max_tokens": 100, "n": 2, "stream": true, "ignore_eos": true}'
    connection = socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body)
    return connection


def test_slow_readers_disconnects_and_bad_requests_do_not_touch_the_streams_beside_them(endpoint, client, expected):
    with Load(endpoint, "toy", width=8) as load:
        slow = [raw_stream(endpoint) for _ in range(4)]
        for _ in range(DISCONNECTS):
            raw_stream(endpoint).close()
            time.sleep(0.01)
        for body in (b"{", b'{"prompt": [999999]}', b"[" * 10_000):
            assert client.post("/v1/completions", content=body).status_code == 400
        done = len(load.texts)
        wait_for(lambda: len(load.texts) >= done + 16)
        for connection in slow:
            connection.close()
    refused = [fault for fault in load.faults if "overloaded" in fault]
    assert load.faults == refused, "a stream failed otherwise than by being refused"
    assert set(load.texts) == {expected}
    wait_for(lambda: value_of(client.get("/metrics").text, "mtp_num_requests_running") == 0)


@pytest.mark.long
def test_memory_of_a_replica_is_flat_under_load(endpoint):
    from tests.serve.load import replica_memory

    with Load(endpoint, "toy", width=8):
        time.sleep(20)
        before = sum(replica_memory().values())
        time.sleep(40)
        after = sum(replica_memory().values())
    assert after < before + 40, f"{before:.0f} MiB grew to {after:.0f} MiB in 40 s"


def test_the_endpoint_answers_beside_a_flood_that_is_refused(endpoint, client):
    flood = {"prompt": "x", "max_tokens": 100, "n": 100, "ignore_eos": True}
    with Load(endpoint, "toy", width=2) as load:
        refused = httpx.post(f"{endpoint}/v1/completions", json=flood, timeout=60)
        assert refused.status_code == 429
        assert client.get("/health").status_code == 200
        wait_for(lambda: len(load.texts) >= 4)
