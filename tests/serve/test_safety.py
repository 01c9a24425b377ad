"""Keys, limits and sizes, on the application alone: no model and no cluster is needed to be refused."""

import httpx
import pytest

from mtp.errors import MTPError, UsageError
from serve.api_keys import APIKey, KeyStore
from serve.errors import APIError
from serve.limits import Bucket, KeyLimits


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys.json")


def test_a_key_is_found_by_its_secret_and_the_file_does_not_hold_it(store):
    key, secret = store.add("team", requests_per_minute=5)
    assert store.find(secret) == key
    assert store.find(secret + "x") is None
    assert secret not in store.path.read_text()
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_revoked_key_is_refused_also_by_a_store_that_read_the_file_before(store):
    _, secret = store.add("team")
    other = KeyStore(store.path)
    assert other.find(secret)
    store.revoke("team")
    assert other.find(secret) is None
    assert not other.configured()


def test_names_are_unique_and_unknown_ones_are_refused(store):
    store.add("team")
    with pytest.raises(UsageError, match="already"):
        store.add("team")
    with pytest.raises(UsageError, match="there are: team"):
        store.revoke("nobody")
    with pytest.raises(UsageError):
        store.add("a/b")


def test_a_damaged_key_file_lets_nobody_in(store):
    store.add("team")
    store.path.write_text("{")
    with pytest.raises(MTPError, match="damaged"):
        KeyStore(store.path).configured()


def test_a_bucket_refills_evenly():
    now = [0.0]
    bucket = Bucket(60, clock=lambda: now[0])
    bucket.charge(60)
    assert bucket.wait_s(1) == pytest.approx(1)
    now[0] += 30
    assert bucket.wait_s(30) == 0
    assert bucket.wait_s(40) == pytest.approx(10)
    assert bucket.wait_s(1000) == pytest.approx(30), "more than a bucket holds waits for a full one"


def test_each_key_has_limits_of_its_own():
    now = [0.0]
    limits = KeyLimits(clock=lambda: now[0])
    made = {"sha256": "0", "created": "2026-01-01T00:00:00Z"}
    small = APIKey(name="small", requests_per_minute=1, **made)
    tokens = APIKey(name="tokens", tokens_per_minute=10, **(made | {"sha256": "1"}))
    limits.admit(small, 5)
    with pytest.raises(APIError) as refused:
        limits.admit(small, 5)
    assert (refused.value.status, refused.value.retry_after) == (429, 60)
    limits.admit(tokens, 5)
    limits.charge_output(tokens, 20)
    with pytest.raises(APIError, match="tokens a minute"):
        limits.admit(tokens, 1)
    now[0] += 120
    limits.admit(tokens, 1)
    limits.admit(None, 10**9)


@pytest.fixture
def secret(endpoint_keys):
    """A key of the endpoint; without one again afterwards."""
    _, secret = endpoint_keys.add("team", requests_per_minute=1)
    yield secret
    endpoint_keys.path.unlink()


def test_with_a_key_configured_every_request_needs_it(client, secret):
    body = {"prompt": "x", "max_tokens": 1}
    refused = client.post("/v1/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        assert client.get(path).status_code == 401
    for path in ("/health", "/ready", "/"):
        assert client.get(path).status_code == 200
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.post("/v1/completions", json=body, headers=headers).status_code == 200
    limited = client.post("/v1/completions", json=body, headers=headers)
    assert (limited.status_code, limited.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(limited.headers["retry-after"]) >= 1


def test_a_body_that_is_too_large_is_refused_announced_or_not(client):
    for content in (b" " * 200_001, iter([b" " * 100_000] * 3)):
        answer = client.post("/v1/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_headers_that_are_too_large_are_refused(client):
    try:
        answer = client.get("/v1/models", headers={"x-large": "a" * 100_000})
    except httpx.HTTPError:
        return  # the server closed the connection at once
    assert answer.status_code == 431


def test_a_slow_header_does_not_keep_others_waiting(client, endpoint):
    import socket

    with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2]))) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert client.get("/health").status_code == 200


def test_more_tokens_than_the_cap_are_refused(client):
    answer = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 101})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tokens")


def test_answers_carry_security_headers_and_one_request_id_and_no_cors(client):
    answer = client.get("/v1/models", headers={"Origin": "https://example.com"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert "access-control-allow-origin" not in answer.headers


def test_more_requests_than_may_wait_are_answered_with_429_and_the_others_in_full(client):
    body = {"prompt": "x", "max_tokens": 60, "n": 30, "ignore_eos": True, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as busy:
        lines = busy.iter_lines()
        next(lines)
        refused = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, "n": 60})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert list(lines)[-2] == "data: [DONE]"
