"""From a model's folder to vLLM that is ready: started, held to the model's probe, and warm."""

import math
from pathlib import Path
from typing import Any

import httpx

from mtp.checkpoint import load_model_config
from mtp.config import ModelConfig, ServeConfig
from mtp.decode.probe import LOSS_SLACK, read_probe
from mtp.errors import MTPError
from serve.serving_engine import MakeMetrics, Running
from serve.vllm_answer import prompt_logprobs_of
from serve.vllm_engine import PATH, VLLMEngine
from serve.vllm_request import Offer
from serve.vllm_server import MODEL, VLLMServer

WARM_UP_TOKENS = 8


def start_vllm(folder: Path, config: ServeConfig, make_metrics: MakeMetrics) -> Running:
    """The model of `folder`, decoding in vLLM.

    Raises:
        MTPError: there is no vLLM, it does not start or does not compute what the model computed when it was made.
    """
    model = load_model_config(folder)
    max_model_len = config.max_model_len or model.max_position_embeddings
    offer = Offer(model, max_model_len, _num_draft_tokens(folder, model, config))
    server = VLLMServer(folder, config, offer.num_draft_tokens)
    try:
        server.wait()
        with server.client(timeout_s=600) as client:
            _warm_up(client, config.max_batch_size, max_model_len)
            _probe(client, folder, max_model_len)
    except BaseException:
        server.stop()
        raise
    engine = VLLMEngine(server, offer)
    metrics = make_metrics(engine.state)
    engine.watch(metrics)
    return Running(engine, metrics)


def _num_draft_tokens(folder: Path, model: ModelConfig, config: ServeConfig) -> int:
    """Drafts a step, 0 for standard decoding."""
    kind = model.prediction.kind
    if config.decoder == "standard" or kind == "none":
        return 0
    if kind != "sequential":
        raise MTPError(
            f"the model in {folder} has {kind} prediction modules, and vLLM drafts with sequential ones alone; "
            f"serve it with serve.engine=native, or without drafts with serve.decoder=standard"
        )
    return model.n_future - 1 if config.num_draft_tokens is None else config.num_draft_tokens


def _warm_up(client: httpx.Client, batch: int, max_model_len: int) -> None:
    """A full batch, so that no user's request pays for first times."""
    tokens = min(WARM_UP_TOKENS, max_model_len - 1)
    body = {"prompt": [[1]] * batch, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "logprobs": 0}
    for choice in _ask(client, body)["choices"]:
        if not all(map(_is_finite, choice["logprobs"]["token_logprobs"])):
            raise MTPError("the model does not decode in vLLM: its log-probabilities are not finite")


def _probe(client: httpx.Client, folder: Path, max_model_len: int) -> None:
    """Hold vLLM to what the model made of the rows of its own record, where it has one."""
    recorded = read_probe(folder)
    if recorded is None:
        return
    losses = [_loss(client, row[:max_model_len]) for row in recorded.rows]
    was, now = recorded.loss[0], sum(losses) / len(losses)
    if not now <= was + LOSS_SLACK * (1 + was):  # NaN too
        raise MTPError(
            f"the model in {folder} is not in vLLM what it was when it was made: its loss was {was:.2f} and is "
            f"{now:.2f} nats; serve it with serve.engine=native"
        )


def _loss(client: httpx.Client, row: list[int]) -> float:
    """Mean cross-entropy of a row's tokens after the first, in nats."""
    answer = _ask(client, {"prompt": row[:-1], "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0})
    known = [entry for entry in prompt_logprobs_of(answer["choices"][0], row[:-1], 0) if entry is not None]
    return -sum(entry.logprob for entry in known) / len(known)


def _ask(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(PATH, json={"model": MODEL, **body})
    if response.status_code != httpx.codes.OK:
        raise MTPError(f"the model does not decode in vLLM: {response.text[:300]}")
    answer: dict[str, Any] = response.json()
    return answer


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
