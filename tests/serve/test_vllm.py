"""The engine `vllm`: what it cannot do is refused, its answers are read rightly, and it says what ours says.

The real server runs where MTP_VLLM_PYTHON names the interpreter of an environment that has vLLM (docs/serving.md).
"""

import asyncio
import json
import os
import subprocess
import sys

import httpx
import pytest
import torch

from mtp.checkpoint import save_model
from mtp.config import ServeConfig
from mtp.decode import Request, Sampling, Speculation
from mtp.decode.probe import record_probe
from mtp.errors import MTPError, UsageError
from mtp.model import MTPModel
from mtp.tokenizer import Tokenizer
from serve.serving_engine import EngineStoppedError
from serve.vllm_answer import prompt_logprobs_of, stats_of, steps_of
from serve.vllm_engine import state_of
from serve.vllm_request import Offer, body_of, check
from serve.vllm_server import VLLMServer, last_words
from serve.vllm_start import start_vllm
from tests.decode.tiny import KINDS, tiny_config, train
from tests.serve.conftest import value_of, wait_for

PYTHON = os.environ.get("MTP_VLLM_PYTHON")
CONFIG = tiny_config(
    KINDS["one_module"], vocab_size=300, qk_nope_head_dim=48, qk_rope_head_dim=16, v_head_dim=32, kv_lora_rank=32
)
"""Heads of 64, which vLLM's attention on processors takes."""
MTP = Offer(CONFIG, 128, 1)


def request(prompt=(1, 2, 3), emitted=(), speculation=None, **sampling):
    return Request(
        prompt=list(prompt),
        emitted=emitted,
        sampling=Sampling(**sampling),
        speculation=Speculation(**speculation or {}),
    )


@pytest.mark.parametrize(
    ("speculation", "sampling", "words"),
    [
        ({"decoder": "standard"}, {}, "decodes every request with mtp"),
        ({"decoder": "prompt_lookup"}, {}, "decodes every request with mtp"),
        ({"num_draft_tokens": 3}, {}, "drafts 1 tokens in every step"),
        ({"acceptance": "typical"}, {}, "knows only exact"),
        ({}, {"min_p": 0.1}, "cannot combine"),
        ({}, {"logit_bias": {1: 2.0}}, "cannot combine"),
        ({}, {"stop_ids": (300,)}, "ids are 0 to 299"),
    ],
)
def test_what_vllm_cannot_do_is_refused_in_a_sentence(speculation, sampling, words):
    with pytest.raises(UsageError, match=words):
        check(request(speculation=speculation, **sampling), MTP)


def test_what_it_can_do_is_passed_on_and_too_long_prompts_are_refused_in_our_words():
    check(request(speculation={"num_draft_tokens": 1}), MTP)
    check(request(speculation={"decoder": "standard"}, min_p=0.1), Offer(CONFIG, 128, 0))
    with pytest.raises(UsageError, match="of prompt and output together"):
        check(request(prompt=[1] * 128), MTP)
    body = body_of(request(temperature=0.5, seed=7, json_object=True, max_tokens=9), 128)
    assert (body["prompt"], body["max_tokens"], body["seed"]) == ([1, 2, 3], 9, 7)
    assert body["structured_outputs"] == {"json_object": True} and body["stream"]
    assert body_of(request(max_tokens=500), 128)["max_tokens"] == 125


def test_a_lost_request_goes_on_where_it_was_unless_its_sampling_knew_what_came_before():
    body = body_of(request(emitted=(4, 5), max_tokens=9, min_tokens=3), 128)
    assert (body["prompt"], body["max_tokens"], body["min_tokens"]) == ([1, 2, 3, 4, 5], 7, 1)
    for sampling in ({"temperature": 1.0, "seed": 1}, {"json_object": True}, {"presence_penalty": 1.0}):
        with pytest.raises(EngineStoppedError):
            body_of(request(emitted=(4,), **sampling), 128)


def read(*events):
    async def lines():
        for event in events:
            yield "data: " + (event if isinstance(event, str) else json.dumps(event))
            yield ""

    async def collect():
        return [output async for output in steps_of(lines())]

    return asyncio.run(collect())


ACCOUNT = {"per_step_accepted": [1, 0, 2], "per_step_drafted": [2, 2, 2]}
"""vLLM's, of three steps with two drafts."""


def test_a_stream_becomes_steps_and_the_last_one_brings_the_drafts_by_position():
    logprobs = {
        "tokens": ["token_id:7", "token_id:8"],
        "token_logprobs": [-1.0, -0.5],
        "top_logprobs": [{"token_id:9": -0.9, "token_id:7": -1.0}, {"token_id:8": -0.5}],
    }
    first, last = read(
        {"choices": [{"token_ids": [7, 8], "logprobs": logprobs, "finish_reason": None}]},
        {"choices": [{"token_ids": [1, 2, 3, 4, 5], "finish_reason": "length"}]},
        {"choices": [], "metrics": {"speculative_decoding": ACCOUNT}},
        "[DONE]",
    )
    assert [token.id for token in first.tokens] == [7, 8] and first.finish_reason is None
    assert first.tokens[0].logprob.top == ((9, -0.9), (7, -1.0))
    assert first.so_far.tokens == 2
    assert (last.finish_reason, last.stats.tokens, last.stats.target_passes) == ("length", 7, 4)
    assert (last.stats.drafted_per_position, last.stats.accepted_per_position) == ([3, 3], [2, 1])


def test_a_stream_that_ends_early_is_a_stopped_engine_and_an_error_in_it_ends_this_request_alone():
    with pytest.raises(EngineStoppedError):
        read({"choices": [{"token_ids": [7], "finish_reason": None}]})
    with pytest.raises(EngineStoppedError):
        read({"choices": [{"token_ids": [7], "finish_reason": "abort"}]}, "[DONE]")
    (failed,) = read({"error": {"message": "no memory", "code": 500}})
    assert (failed.finish_reason, failed.error) == ("error", "vLLM: no memory")


def test_passes_without_drafts_are_counted_and_a_prompts_scores_belong_to_its_tokens():
    assert stats_of({}, 5).target_passes == 5
    assert stats_of({"metrics": {"speculative_decoding": ACCOUNT}}, 9).target_passes == 6
    scores = [None, {"2": {"logprob": -3.0}, "9": {"logprob": -0.1}}]
    none, second = prompt_logprobs_of({"prompt_logprobs": scores}, [1, 2], top=1)
    assert none is None and (second.token, second.logprob, second.top) == (2, -3.0, ((9, -0.1),))


def test_vllms_own_metrics_are_read_by_name():
    page = 'vllm:num_requests_running{engine="0"} 3.0\nvllm:kv_cache_usage_perc{engine="0"} 0.25\n'
    page += "# TYPE vllm:prefix_cache_hits counter\nvllm:prefix_cache_hits_total 16.0\n"
    state = state_of(page)
    assert (state.running, state.cache_use, state.prefix_hits) == (3, 0.25, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that vLLM can load, with the record of what it computes."""
    tokenizer = Tokenizer.train(["def f(x):\n    return x + 1\n", "for i in range(10):\n    print(i)\n"] * 20, 300)
    torch.manual_seed(0)
    model = train(MTPModel(CONFIG.model_copy(update={"vocab_size": tokenizer.vocab_size})), steps=20)
    found = save_model(tmp_path_factory.mktemp("vllm") / "theirs", model, tokenizer)
    record_probe(found, model)
    return found


def test_without_vllm_one_sentence_says_what_to_install_and_where_to_name_it(folder):
    for python, words in ((sys.executable, "has no vLLM; install it"), ("/no/python", "cannot be run")):
        with pytest.raises(MTPError, match=words):
            start_vllm(folder, ServeConfig(engine="vllm", vllm_python=python), lambda read: None)


def test_why_vllm_did_not_start_is_the_error_that_the_others_point_to():
    log = """
        (EngineCore pid=7) ERROR 11-28 RuntimeError: expect weight to be bfloat16
        (APIServer pid=1)     raise RuntimeError(
        (APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
        (APIServer pid=1) exit
    """
    assert last_words(log) == "RuntimeError: expect weight to be bfloat16"
    assert last_words("INFO loading\nkilled\n") == "killed"
    assert last_words("") == "it has said nothing"


def test_modules_that_vllm_cannot_draft_with_are_refused_before_it_is_started(tmp_path):
    model = MTPModel(tiny_config(KINDS["parallel_0"], vocab_size=300))
    folder = save_model(tmp_path / "parallel", model, Tokenizer.train(["def f(x):\n"] * 20, 300))
    with pytest.raises(MTPError, match=r"serve.decoder=standard"):
        start_vllm(folder, ServeConfig(engine="vllm"), lambda read: None)


def test_settings_of_one_engine_are_refused_with_the_other():
    with pytest.raises(ValueError, match="quantization belong to engine native"):
        ServeConfig(engine="vllm", quantization="int8")
    with pytest.raises(ValueError, match="belong to engine vllm"):
        ServeConfig(vllm_python="/usr/bin/python3")


def test_what_a_killed_process_had_on_the_leash_ends_and_its_folder_goes(tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    leash = VLLMServer.__module__.rpartition(".")[0]
    command = f"import subprocess, sys, time; from {leash} import leash; subprocess.Popen([sys.executable, '-I', "
    command += "leash.__file__, sys.argv[1], 'sleep', '987'], stdin=subprocess.PIPE); time.sleep(600)"
    owner = subprocess.Popen([sys.executable, "-c", command, str(private)])
    wait_for(lambda: sleeping())
    owner.kill()
    owner.wait()
    wait_for(lambda: not sleeping() and not private.exists())


def sleeping():
    import psutil

    return [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "987"]]


@pytest.mark.long
@pytest.mark.skipif(PYTHON is None, reason="MTP_VLLM_PYTHON does not name an interpreter with vLLM")
def test_vllm_answers_what_our_own_engine_answers_behind_the_same_endpoint(endpoint, endpoint_keys, folder, client):
    from serve.deploy import deploy, undeploy

    settings = {"port": int(endpoint.rpartition(":")[2]), "num_cpus": 0.25, "api_keys": str(endpoint_keys.path)}
    try:
        deploy(str(folder), ServeConfig(**settings), name="ours")
        deploy(str(folder), ServeConfig(**settings, engine="vllm", vllm_python=PYTHON), name="theirs")
        both_answer_alike(client)
        what_vllm_cannot_do_is_refused(client)
        wait_for(lambda: all(value_of(client.get("/metrics").text, name) > 0 for name in COUNTED))
    finally:
        for name in ("theirs", "ours"):
            undeploy(model=name)
    wait_for(lambda: not [one for one in processes() if "vllm.entrypoints" in one])  # it does not outlive its replica


COUNTED = ("mtp_generation_tokens_total", "mtp_spec_decode_num_accepted_tokens_total", "mtp_prefix_cache_queries_total")


def both_answer_alike(client):
    for prompt in ("def f(x):", "for i in", "x", "print(i)\n    return"):
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 60, "logprobs": 2}
        ours, theirs = (ask(client, body | {"model": name}) for name in ("ours", "theirs"))
        assert ours["choices"][0]["text"] == theirs["choices"][0]["text"]
        assert ours["choices"][0]["finish_reason"] == theirs["choices"][0]["finish_reason"]
        assert ours["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"]
        scores = [one["choices"][0]["logprobs"]["token_logprobs"] for one in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    accepted = theirs["usage"]["speculation"]
    assert accepted["accepted_per_position"][0] > 0 and accepted["tokens_per_step"] > 1
    scored = {"prompt": "def f(x):", "echo": True, "logprobs": 1, "max_tokens": 0}
    ours, theirs = (ask(client, scored | {"model": name})["choices"][0]["logprobs"] for name in ("ours", "theirs"))
    assert ours["tokens"] == theirs["tokens"] and len(ours["token_logprobs"]) > 2
    assert ours["token_logprobs"][1:] == pytest.approx(theirs["token_logprobs"][1:], abs=1e-3)
    answer = ask(
        client, {"model": "theirs", "prompt": "x", "max_tokens": 60, "response_format": {"type": "json_object"}}
    )
    assert answer["choices"][0]["text"].lstrip().startswith("{")
    streamed = client.post("/v1/completions", json=body | {"model": "theirs", "stream": True}).text
    assert streamed.endswith("data: [DONE]\n\n")


def what_vllm_cannot_do_is_refused(client):
    for speculation in ({"origins": True}, {"decoder": "standard"}, {"num_draft_tokens": 2}, {"acceptance": "typical"}):
        answer = client.post("/v1/completions", json={"model": "theirs", "prompt": "x", "speculation": speculation})
        assert answer.status_code == 400 and "vllm" in answer.json()["error"]["message"].lower()
    assert client.get("/v1/models/theirs").json()["engine"] == "vllm"


def ask(client, body):
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()


def processes():
    import psutil

    return [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
