"""Templates, and the chat API over HTTP."""

import json

import pytest

from mtp.errors import MTPError, UsageError
from mtp.tokenizer import Tokenizer
from serve.chat_template import ChatTemplate, plain

CHATML = (
    "{% for message in messages %}<|endoftext|>{{ message.role }}\n{{ message.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant\n{% endif %}"
)
HI = [{"role": "user", "content": "Hi"}]
CHAT = {"messages": HI, "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["user assistant Hi\n"] * 3, 270)


def test_without_a_template_each_message_is_a_paragraph(tokenizer):
    assert plain(HI) == "user: Hi\n\nassistant:"
    assert ChatTemplate(None, {}).encode(HI, tokenizer) == tokenizer.encode(plain(HI))


def test_a_templates_special_tokens_become_ids_and_a_users_never_do(tokenizer):
    typed = [{"role": "user", "content": "<|endoftext|>"}]
    ids = ChatTemplate(CHATML, {}).encode(typed, tokenizer)
    assert ids.count(tokenizer.eos_id) == 3, "two around the message and one before the answer"
    assert "<|endoftext|>" in tokenizer.decode(ids)


def test_a_template_sees_its_special_tokens_by_name(tokenizer):
    template = ChatTemplate("{{ eos_token }}{{ messages[0].content }}", {"eos_token": "<|endoftext|>"})
    assert template.encode(HI, tokenizer) == [tokenizer.eos_id, *tokenizer.encode("Hi")]


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ raise_exception('roles must alternate') }}",
    ],
)
def test_a_template_that_reaches_outside_or_fails_is_an_error_of_the_request(tokenizer, attack):
    with pytest.raises(UsageError, match="chat template"):
        ChatTemplate(attack, {}).encode(HI, tokenizer)


def test_a_template_that_does_not_parse_is_refused_at_load():
    with pytest.raises(MTPError, match="does not parse"):
        ChatTemplate("{% for %}", {})


def events(client, body):
    with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        assert response.status_code == 200
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_streamed_chat_equals_the_whole_one(client):
    whole = client.post("/v1/chat/completions", json=CHAT | {"n": 2, "logprobs": True, "top_logprobs": 2}).json()
    chunks = events(
        client, CHAT | {"n": 2, "logprobs": True, "top_logprobs": 2, "stream_options": {"include_usage": True}}
    )
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks[:2]] == ["assistant"] * 2
    assert chunks[-1]["choices"] == []
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):  # steps and cached tokens may differ
        assert chunks[-1]["usage"][count] == whole["usage"][count]
    for index, choice in enumerate(whole["choices"]):
        own = [chunk["choices"][0] for chunk in chunks[:-1] if chunk["choices"][0]["index"] == index]
        assert "".join(one["delta"].get("content", "") for one in own) == choice["message"]["content"]
        entries = [entry for one in own for entry in one.get("logprobs", {}).get("content", [])]
        assert [entry["bytes"] for entry in entries] == [entry["bytes"] for entry in choice["logprobs"]["content"]]
        assert [len(entry["top_logprobs"]) for entry in entries] == [2] * len(entries)
        assert own[-1]["finish_reason"] == choice["finish_reason"] == "length"


def test_both_names_of_the_token_limit_are_taken(client):
    for name in ("max_tokens", "max_completion_tokens"):
        body = {"messages": HI, name: 3, "temperature": 0, "ignore_eos": True}
        assert client.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"] == 3


def test_unknown_fields_of_clients_are_passed_over_and_named(client):
    answer = client.post("/v1/chat/completions", json=CHAT | {"some_vendor_option": 1})
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "some_vendor_option"


def test_a_json_schema_holds_over_http_also_with_speculation(client):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    for decoder in ("standard", "mtp"):
        body = CHAT | {"max_tokens": 60, "response_format": wanted, "speculation": {"decoder": decoder}}
        answer = client.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert json.loads(answer["message"]["content"])["a"] in (1, 2)
        assert answer["finish_reason"] == "stop"


def test_an_echoed_stream_equals_the_whole_answer(client):
    body = {"prompt": "def f", "max_tokens": 6, "temperature": 0, "echo": True, "logprobs": 1}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]
    with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    chunks = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [value for chunk in chunks for value in chunk["logprobs"][name]] == values
