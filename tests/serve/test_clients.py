"""Real clients, unchanged, against a real endpoint."""

import asyncio
import json

import httpx
import openai
import pytest

MESSAGES = [{"role": "user", "content": "print"}]


@pytest.fixture
def official(endpoint):
    return openai.OpenAI(base_url=f"{endpoint}/v1", api_key="unused", max_retries=0)


def test_openais_client_completes_chats_and_streams(official):
    whole = official.chat.completions.create(model="toy", messages=MESSAGES, max_tokens=8, temperature=0)
    stream = official.chat.completions.create(
        model="toy", messages=MESSAGES, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    completion = official.completions.create(model="toy", prompt="def f", max_tokens=4, logprobs=2, temperature=0)
    assert len(completion.choices[0].logprobs.token_logprobs) == 4
    assert [model.id for model in official.models.list()] == ["toy"]


def test_openais_client_gets_typed_errors(official):
    with pytest.raises(openai.NotFoundError) as missing:
        official.completions.create(model="another", prompt="x")
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError):
        official.chat.completions.create(model="toy", messages=MESSAGES, temperature=9)


def test_openais_async_client_runs_many_at_once(endpoint):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="unused") as client:
            one = {"model": "toy", "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
            answers = await asyncio.gather(*(client.chat.completions.create(**one) for _ in range(6)))
            streamed = await client.chat.completions.create(**one, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in streamed])
            return {answer.choices[0].message.content for answer in answers} | {text}

    assert len(asyncio.run(ask())) == 1


def test_langchain_invokes_and_streams(endpoint):
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=f"{endpoint}/v1", api_key="unused", model="toy", temperature=0, max_tokens=8)
    whole = model.invoke("print")
    assert whole.usage_metadata["output_tokens"] <= 8
    assert "".join(chunk.content for chunk in model.stream("print")) == whole.content


@pytest.mark.long
def test_lm_eval_scores_continuations_as_the_model_does(endpoint, client, model_folder, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from transformers import PreTrainedTokenizerFast

    file = str(model_folder / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    lm = LocalCompletionsAPI(
        model="toy", base_url=f"{endpoint}/v1/completions", tokenizer=str(tmp_path), max_length=100, num_concurrent=1
    )
    context, continuation = "def f(x):", "\n    return x + 1"
    instance = Instance("loglikelihood", {}, (context, continuation), 0)
    ((found, greedy),) = lm.loglikelihood([instance], disable_tqdm=True)
    ids, whole = (
        client.post("/tokenize", json={"prompt": text}).json()["tokens"] for text in (context, context + continuation)
    )
    body = {"prompt": whole, "echo": True, "logprobs": 1, "max_tokens": 0}
    scores = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["token_logprobs"]
    assert found == pytest.approx(sum(scores[len(ids) :]), abs=1e-3)
    assert greedy in (True, False)


def test_no_request_that_the_schema_allows_or_forbids_gets_a_5xx(endpoint):
    import schemathesis
    from hypothesis import HealthCheck, Phase, settings
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_url(f"{endpoint}/openapi.json")
    quick = settings(
        max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
    )

    def fuzz(operation):
        from hypothesis import given

        @quick
        @given(case=operation.as_strategy())
        def run(case):
            if isinstance(case.body, dict) and case.body.get("n", 1):
                case.body["n"] = 1
            response = case.call()
            case.validate_response(response, checks=[not_a_server_error])

        run()

    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path != "/metrics":
            fuzz(operation)


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_deep_nesting_inside_a_field_is_refused(endpoint, depth):
    body = b'{"prompt": "x", "metadata": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    answer = httpx.post(f"{endpoint}/v1/completions", content=body[:190_000], timeout=60)
    assert answer.status_code == 400, json.dumps(answer.text[:200])
