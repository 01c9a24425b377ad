"""The application without a cluster: what it answers while nothing is served, and with CORS allowed."""

import asyncio
import json
import logging

import httpx
import pytest

from serve.app import Settings, create_app
from serve.service import Service


def ask(app, method, path, **options):
    async def send():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.setenv("MTP_HOME", str(tmp_path))
    service, settings = Service(), Settings()
    return create_app(lambda: service, lambda: settings, ["https://example.com"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/completions", {"prompt": "x"}),
        ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("POST", "/tokenize", {"prompt": "x"}),
        ("GET", "/ready", None),
    ],
)
def test_while_no_model_is_served_requests_are_told_to_come_back(app, method, path, body):
    answer = ask(app, method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "service_unavailable_error")
    assert answer.headers["retry-after"] == "5"


def test_health_and_the_page_do_not_need_a_model(app):
    assert ask(app, "GET", "/health").json() == {"status": "ok"}
    assert "playground.js" in ask(app, "GET", "/").text
    assert ask(app, "GET", "/static/playground.js").status_code == 200
    assert ask(app, "GET", "/static/../app.py").status_code == 404
    assert ask(app, "GET", "/nothing").json()["error"]["type"] == "invalid_request_error"


def test_pages_of_named_origins_alone_are_let_in(app):
    allowed = ask(app, "GET", "/health", headers={"Origin": "https://example.com"})
    assert allowed.headers["access-control-allow-origin"] == "https://example.com"
    other = ask(app, "GET", "/health", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


class Broken(dict):
    """Models that nobody can ask for."""

    def __len__(self):
        raise KeyError("a secret")


def test_a_fault_of_the_gateway_is_told_by_its_type_without_its_words_and_counts_as_one(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MTP_HOME", str(tmp_path))
    service, settings = Service(), Settings()
    service.models = Broken()
    with caplog.at_level(logging.INFO, logger="mtp.access"):
        answer = ask(create_app(lambda: service, lambda: settings), "GET", "/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "KeyError" in answer.text and "secret" not in answer.text
    assert json.loads(caplog.records[-1].message)["status"] == 500


def test_a_client_that_leaves_before_its_body_has_come_is_no_fault_of_the_gateway(app, caplog):
    scope = {"type": "http", "method": "POST", "path": "/tokenize", "headers": [], "query_string": b""}

    async def receive():
        return {"type": "http.disconnect"}

    async def send(_):
        pass

    with caplog.at_level(logging.INFO, logger="mtp.access"):
        asyncio.run(app(scope, receive, send))
    assert json.loads(caplog.records[-1].message)["status"] == 400


def test_every_request_is_logged_with_an_id_and_without_its_prompt(app, caplog):
    with caplog.at_level(logging.INFO, logger="mtp.access"):
        ask(app, "POST", "/v1/completions", json={"prompt": "a secret", "model": "m"})
    entry = json.loads(caplog.records[-1].message)
    assert entry["id"] and entry["status"] == 503 and entry["model"] == "m" and entry["whole"]
    assert "secret" not in caplog.text
