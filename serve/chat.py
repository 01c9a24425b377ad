"""/v1/chat/completions: messages to a prompt by the model's template, and choices to OpenAI's chat answer."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi.responses import JSONResponse, Response

from mtp.decode import Request, TokenLogprob
from serve.api_keys import APIKey
from serve.choices import Choice, opened, run_all, stream_all
from serve.completions import speculation_of, totals
from serve.protocol import ChatRequest
from serve.service import ServedModel, Service
from serve.sse import event_stream
from serve.text_stream import Delta, TextStream


async def chat(service: Service, body: ChatRequest, key: APIKey | None) -> Response:
    """Answer one request, streaming or not."""
    model = service.model(body.model)
    choices = _choices(model, body)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model.name}
    if body.stream:
        head["object"] = "chat.completion.chunk"
        return await event_stream(_chunks(service, model, body, choices, key, head))
    async with service.generating(model, choices, key), opened(choices, model.engine):
        await run_all(choices)
    answer = {**head, "object": "chat.completion", **totals(choices)}
    return JSONResponse({**answer, "choices": [_choice(model, body, one) for one in choices]})


def _choices(model: ServedModel, body: ChatRequest) -> list[Choice]:
    messages = [{"role": message.role, "content": message.text} for message in body.messages]
    ids = model.template.encode(messages, model.tokenizer)
    room = max(1, model.max_model_len - len(ids))
    if model.config.max_completion_tokens is not None:
        room = min(room, model.config.max_completion_tokens)
    max_tokens = body.max_completion_tokens or body.max_tokens or room
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    speculation = speculation_of(model, body)
    choices = []
    for number in range(body.choices_per_prompt):
        sampling = body.sampling(max_tokens=max_tokens, choice=number, logprobs=logprobs, prompt_logprobs=False)
        request = Request(prompt=ids, sampling=sampling, speculation=speculation)
        choices.append(Choice(number, ids, request, TextStream(model.tokenizer, body.stops)))
    return choices


async def _chunks(
    service: Service,
    model: ServedModel,
    body: ChatRequest,
    choices: list[Choice],
    key: APIKey | None,
    head: dict[str, Any],
) -> AsyncGenerator[dict[str, Any], None]:
    options = body.stream_options
    told = dict.fromkeys(range(len(choices)), 0)
    async with service.generating(model, choices, key), opened(choices, model.engine):
        for choice in choices:
            delta = {"role": "assistant", "content": ""}
            yield {**head, "choices": [{"index": choice.index, "delta": delta, "finish_reason": None}]}
        async with aclosing(stream_all(choices)) as deltas:
            async for choice, step in deltas:
                if not step.text and choice.finish_reason is None:
                    continue
                entry = _delta(model, body, choice, step, told)
                chunk = {**head, "choices": [{**entry, "finish_reason": choice.finish_reason}]}
                if options is not None and options.continuous_usage_stats:
                    chunk["usage"] = totals(choices)["usage"]
                yield chunk
    if options is not None and options.include_usage:
        yield {**head, "choices": [], **totals(choices)}


def _delta(model: ServedModel, body: ChatRequest, choice: Choice, step: Delta, told: dict[int, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"index": choice.index, "delta": {"content": step.text} if step.text else {}}
    if body.logprobs:
        fresh = choice.text.logprobs[told[choice.index] :]
        told[choice.index] = len(choice.text.logprobs)
        entry["logprobs"] = {"content": [_token(model, known) for _, known in fresh]}
    if body.speculation.origins:
        entry["origins"] = step.pieces
        entry["tokens"] = choice.text.tokens
    return entry


def _choice(model: ServedModel, body: ChatRequest, choice: Choice) -> dict[str, Any]:
    text = "".join(piece for piece, _ in choice.pieces)
    entry: dict[str, Any] = {"index": choice.index, "message": {"role": "assistant", "content": text}}
    entry["logprobs"] = (
        {"content": [_token(model, known) for _, known in choice.text.logprobs]} if body.logprobs else None
    )
    if body.speculation.origins:
        entry["origins"] = choice.pieces
    return {**entry, "finish_reason": choice.finish_reason}


def _token(model: ServedModel, known: TokenLogprob) -> dict[str, Any]:
    """OpenAI's entry of `logprobs.content`."""
    entry = _spelled(model, known.token, known.logprob)
    return {**entry, "top_logprobs": [_spelled(model, token, value) for token, value in known.top]}


def _spelled(model: ServedModel, token: int, logprob: float) -> dict[str, Any]:
    known = token < model.tokenizer.vocab_size
    raw = model.tokenizer.token_bytes(token) if known else b""
    return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}
