import json

import pytest

from mtp.config import ServeConfig
from mtp.errors import MTPError, UsageError
from tests.serve.conftest import value_of, wait_for

GREEDY = {"prompt": "def f(x):", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
BAD_BODIES = [
    b"{",
    b"null",
    b'{"prompt": NaN}',
    b'{"prompt": "x", "temperature": 1e999}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "\xff"}',
    b"[" * 100_000,
    b'{"prompt": ""}',
    b'{"prompt": []}',
    b'{"prompt": [999999]}',
    b'{"prompt": "x", "stop_token_ids": [999999]}',
    b'{"prompt": "x", "logit_bias": {"999999": 1}}',
    b'{"prompt": "x", "temprature": 1}',
    b'{"prompt": "x", "max_tokens": -1}',
    b'{"prompt": "x", "min_tokens": 9, "max_tokens": 3}',
    b'{"prompt": "x", "n": 100000}',
    b'{"prompt": "x", "suffix": "y"}',
    b'{"prompt": "x", "response_format": {"type": "json_schema"}}',
    b'{"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}}',
    b'{"prompt": "x", "speculation": {"decoder": "unknown"}}',
    b'{"prompt": "x", "speculation": {"num_draft_tokens": 60}}',
]


def complete(client, **changes):
    response = client.post("/v1/completions", json=GREEDY | changes)
    assert response.status_code == 200, response.text
    return response.json()


def events(client, body):
    with client.stream("POST", "/v1/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_completion_has_text_usage_and_speculation(client):
    answer = complete(client, speculation={"num_draft_tokens": 3})
    assert answer["usage"]["completion_tokens"] == 24
    assert answer["choices"][0]["finish_reason"] == "length"
    speculation = answer["usage"]["speculation"]
    assert speculation["tokens_per_step"] == pytest.approx(24 / speculation["steps"], abs=1e-3)
    assert answer["metrics"]["speculative_decoding"]["num_spec_tokens"] == 3


def test_greedy_mtp_equals_standard_decoding_over_http(client):
    for prompt in ("def f(x):", "for i in range(10):\n", "x", "print(i)"):
        mtp = complete(client, prompt=prompt, speculation={"decoder": "mtp"})
        standard = complete(client, prompt=prompt, speculation={"decoder": "standard"})
        assert mtp["choices"] == standard["choices"]
        assert standard["usage"]["speculation"]["tokens_per_step"] == 1


def test_streaming_equals_not_streaming(client):
    chunks = events(client, GREEDY | {"stream": True, "stream_options": {"include_usage": True}})
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    whole = complete(client)
    assert text == whole["choices"][0]["text"]
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


def test_a_stop_string_ends_the_text_before_it(client):
    text = complete(client)["choices"][0]["text"]
    stop = text[5:8]
    answer = complete(client, stop=stop)["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (text[: text.index(stop)], "stop")


def test_a_seed_gives_the_same_text_again(client):
    sampled = {"temperature": 1.0, "seed": 5, "n": 2}
    first, second = complete(client, **sampled), complete(client, **sampled)
    assert first["choices"] == second["choices"]
    assert first["choices"][0]["text"] != first["choices"][1]["text"]


def test_echo_with_logprobs_scores_every_prompt_token_but_the_first(client):
    ids = client.post("/tokenize", json={"prompt": GREEDY["prompt"]}).json()["tokens"]
    scores = complete(client, prompt=ids, echo=True, logprobs=1, max_tokens=1)["choices"][0]["logprobs"]
    assert len(scores["token_logprobs"]) == len(scores["top_logprobs"]) == len(ids) + 1
    assert scores["token_logprobs"][0] is None
    assert all(value <= 0 for value in scores["token_logprobs"][1:])


@pytest.mark.parametrize("body", BAD_BODIES)
def test_bad_input_is_refused_in_openais_shape(client, body):
    response = client.post("/v1/completions", content=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "ray::" not in error["message"] and "\n" not in error["message"], "a sentence, not a replica's traceback"


def test_another_models_name_is_not_found(client):
    response = client.post("/v1/completions", json=GREEDY | {"model": "another"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_models_and_readiness_name_the_model(client):
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["toy"]
    assert client.get("/ready").json()["model"] == "toy"


def test_a_chat_is_answered(client):
    body = {"messages": [{"role": "user", "content": "print"}], "max_tokens": 5, "temperature": 0}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] <= 5


def test_a_client_that_leaves_frees_its_place(client):
    body = GREEDY | {"max_tokens": 100, "stream": True, "n": 16}
    with client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())

    def freed(page):
        idle = all(f"{name}{{" in page and value_of(page, name) == 0 for name in ("mtp_num_requests_running",))
        return idle and 'outcome="cancelled"' in page

    wait_for(lambda: freed(client.get("/metrics").text))


def test_a_model_that_does_not_exist_is_refused_and_the_old_one_serves_on(client, endpoint, tmp_path):
    from serve.deploy import deploy

    port = int(endpoint.rpartition(":")[2])
    with pytest.raises(MTPError):
        deploy(str(tmp_path / "nothing"), ServeConfig(port=port))
    assert client.get("/ready").json()["model"] == "toy"


def test_a_port_in_use_is_refused_in_one_sentence(endpoint, model_folder, ray_cluster):
    from serve.deploy import deploy

    taken = int(ray_cluster.mlflow_url.rpartition(":")[2])
    with pytest.raises(UsageError, match="cannot be used"):
        deploy(str(model_folder), ServeConfig(port=taken))
