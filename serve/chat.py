"""/v1/chat/completions: messages to a prompt by a plain template, and choices to OpenAI's chat answer."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import JSONResponse, Response

from mtp.decode import Request, TokenLogprob
from serve.choices import Choice, run_all, stream_all
from serve.completions import totals
from serve.protocol import ChatRequest, Message
from serve.service import Service
from serve.sse import event_stream
from serve.text_stream import TextStream


def prompt_of(messages: list[Message]) -> str:
    """One paragraph a message, each led by its role; the assistant's turn is left open.

    [user: Hi] gives "user: Hi\\n\\nassistant:".
    """
    turns = [f"{message.role}: {message.text}\n\n" for message in messages]
    return "".join(turns) + "assistant:"


async def chat(service: Service, body: ChatRequest) -> Response:
    """Answer one request, streaming or not."""
    service.require_model(body.model)
    choices = _choices(service, body)
    service.check([choice.request for choice in choices])
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.model_name}
    if body.stream:
        return event_stream(_chunks(service, body, choices, {**head, "object": "chat.completion.chunk"}))
    with service.generating(len(choices)), service.metrics.request(choices):
        await run_all(choices, service.loop)
    answer = {**head, "object": "chat.completion", **totals(choices)}
    return JSONResponse({**answer, "choices": [_choice(service, body, one) for one in choices]})


def _choices(service: Service, body: ChatRequest) -> list[Choice]:
    ids = service.encode(prompt_of(body.messages))
    room = max(1, service.engine.max_model_len - len(ids))
    max_tokens = body.max_completion_tokens or body.max_tokens or room
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    speculation = body.speculate(service.config.decoder, service.config.num_draft_tokens)
    choices = []
    for number in range(body.choices_per_prompt):
        sampling = body.sampling(max_tokens=max_tokens, choice=number, logprobs=logprobs, prompt_logprobs=False)
        request = Request(prompt=ids, sampling=sampling, speculation=speculation)
        choices.append(Choice(number, ids, request, TextStream(service.tokenizer, body.stops)))
    return choices


async def _chunks(
    service: Service, body: ChatRequest, choices: list[Choice], head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    for choice in choices:
        delta = {"role": "assistant", "content": ""}
        yield {**head, "choices": [{"index": choice.index, "delta": delta, "finish_reason": None}]}
    with service.generating(len(choices)), service.metrics.request(choices):
        told = dict.fromkeys(range(len(choices)), 0)
        async for choice, step in stream_all(choices, service.loop):
            if not step.text and choice.finish_reason is None:
                continue
            entry: dict[str, Any] = {"index": choice.index, "delta": {"content": step.text} if step.text else {}}
            if body.logprobs:
                fresh = choice.text.logprobs[told[choice.index] :]
                told[choice.index] = len(choice.text.logprobs)
                entry["logprobs"] = {"content": [_token(service, known) for _, known in fresh]}
            if body.speculation.origins:
                entry["origins"] = step.pieces
            yield {**head, "choices": [{**entry, "finish_reason": choice.finish_reason}]}
    if body.stream_options is not None and body.stream_options.include_usage:
        yield {**head, "choices": [], **totals(choices)}


def _choice(service: Service, body: ChatRequest, choice: Choice) -> dict[str, Any]:
    text = "".join(piece for piece, _ in choice.pieces)
    entry: dict[str, Any] = {"index": choice.index, "message": {"role": "assistant", "content": text}}
    entry["logprobs"] = (
        {"content": [_token(service, known) for _, known in choice.text.logprobs]} if body.logprobs else None
    )
    if body.speculation.origins:
        entry["origins"] = choice.pieces
    return {**entry, "finish_reason": choice.finish_reason}


def _token(service: Service, known: TokenLogprob) -> dict[str, Any]:
    """OpenAI's entry of `logprobs.content`."""
    entry = _spelled(service, known.token, known.logprob)
    return {**entry, "top_logprobs": [_spelled(service, token, value) for token, value in known.top]}


def _spelled(service: Service, token: int, logprob: float) -> dict[str, Any]:
    known = token < service.tokenizer.vocab_size
    raw = service.tokenizer.token_bytes(token) if known else b""
    return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}
