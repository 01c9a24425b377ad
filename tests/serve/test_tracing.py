"""Traces of requests: the parts of one, in order, in the client's own trace; and the option without its extra."""

import asyncio
import json

import httpx
import pytest

from mtp.config import ServeConfig
from mtp.errors import UsageError
from serve import tracing
from serve.app import Settings, create_app
from serve.replica import Replica
from serve.service import ServedModel, Service
from serve.tracing import Tracer, tracing_target

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PROMPT = "def f(x):"


@pytest.fixture(scope="module")
def service(model_folder):
    config = ServeConfig(compiled_step="off", max_batch_size=2)
    replica = Replica(str(model_folder), "toy", config.model_dump(mode="json"), None)
    engine = replica._loaded.engine
    service = Service()
    service.models = {"toy": [(1.0, ServedModel("toy", "app", config, replica.describe(), engine))]}
    yield service
    engine.stop()


def ask(service, **body):
    async def send():
        transport = httpx.ASGITransport(app=create_app(lambda: service, Settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            return await client.post("/v1/completions", json={"prompt": PROMPT} | body, headers=headers)

    return asyncio.run(send())


@pytest.fixture
def spans(service, tmp_path, monkeypatch):
    """Ask, and read the spans that came of it."""
    monkeypatch.setenv("MTP_HOME", str(tmp_path))
    service.tracer = Tracer(str(tmp_path / "traces.jsonl"))

    def asked(**body):
        answer = ask(service, **body)
        service.tracer.close()
        return answer, [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]

    yield asked
    service.tracer = Tracer()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_traced_from_its_arrival_to_its_last_step(spans, stream):
    answer, found = spans(max_tokens=12, temperature=0, ignore_eos=True, stream=stream)
    assert answer.status_code == httpx.codes.OK
    named = {span["name"]: span for span in found}
    assert set(named) == {"request", "ingress", "queue", "prefill", "decode"}
    assert {span["context"]["trace_id"] for span in found} == {f"0x{TRACE}"}
    assert named["request"]["parent_id"] == f"0x{PARENT}"
    order = [named[name]["start_time"] for name in ("ingress", "queue", "prefill", "decode")]
    assert order == sorted(order) and named["decode"]["end_time"] <= named["request"]["end_time"]
    assert 1 <= len(named["decode"]["events"]) <= 12
    assert named["request"]["attributes"]["gen_ai.usage.output_tokens"] == 12
    assert PROMPT not in json.dumps(found)


def test_a_refused_request_is_traced_as_an_error(spans):
    answer, found = spans(prompt="x" * 5000)
    assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text
    assert [(span["name"], span["status"]["status_code"]) for span in found][-1] == ("request", "ERROR")
    assert "decode" not in {span["name"] for span in found}


def test_without_the_extra_the_option_is_refused_in_one_sentence(monkeypatch):
    assert tracing_target(None) is None
    monkeypatch.setattr(tracing, "_OTLP", "no_such_package.exporter")
    with pytest.raises(UsageError, match=r"install it: pip install 'mtp-platform\[tracing\]'"):
        tracing_target("http://localhost:4318/v1/traces")
