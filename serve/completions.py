"""/v1/completions: from OpenAI's request to choices, and from choices to OpenAI's answer."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi.responses import JSONResponse, Response

from mtp.decode import Request, Speculation, TokenLogprob
from serve.api_keys import APIKey
from serve.choices import Choice, opened, run_all, stream_all
from serve.errors import APIError
from serve.protocol import MAX_CHOICES, CompletionRequest, Generating
from serve.service import ServedModel, Service
from serve.sse import event_stream
from serve.text_stream import Delta, TextStream, piece
from serve.usage import speculative_decoding, usage

DEFAULT_MAX_TOKENS = 16


async def complete(service: Service, body: CompletionRequest, key: APIKey | None) -> Response:
    """Answer one request, streaming or not."""
    model = service.model(body.model)
    choices = _choices(model, body)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    head["model"] = model.name
    if body.stream:
        return await event_stream(_chunks(service, model, body, choices, key, head))
    async with service.generating(model, choices, key), opened(choices, model.engine):
        await run_all(choices)
    return JSONResponse({**head, **totals(choices), "choices": [_choice(model, body, one) for one in choices]})


def totals(choices: list[Choice]) -> dict[str, Any]:
    """`usage` of all choices (each prompt counts once), and vLLM's metrics where drafts were made."""
    prompts = {choice.index // _repeats(choices): len(choice.prompt) for choice in choices}
    stats = [choice.stats for choice in choices]
    found: dict[str, Any] = {
        "usage": usage(sum(prompts.values()), sum(choice.text.tokens for choice in choices), stats)
    }
    speculative = speculative_decoding(stats)
    if speculative is not None:
        found["metrics"] = {"speculative_decoding": speculative}
    return found


def _choices(model: ServedModel, body: CompletionRequest) -> list[Choice]:
    prompts = body.prompts()
    if not prompts:
        raise APIError(400, "prompt: the list is empty; give at least one prompt", param="prompt")
    if len(prompts) * body.choices_per_prompt > MAX_CHOICES:
        raise APIError(400, f"prompts times n is more than {MAX_CHOICES}; send them in several requests", param="n")
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    speculation = speculation_of(model, body)
    scored = bool(body.echo) and (body.logprobs is not None or max_tokens == 0)
    choices: list[Choice] = []
    for prompt in prompts:
        ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        for number in range(body.choices_per_prompt):
            sampling = body.sampling(
                max_tokens=max_tokens, choice=number, logprobs=body.logprobs, prompt_logprobs=scored
            )
            request = Request(prompt=ids, sampling=sampling, speculation=speculation)
            choices.append(Choice(len(choices), ids, request, TextStream(model.tokenizer, body.stops)))
    return choices


def speculation_of(model: ServedModel, body: Generating) -> Speculation:
    """As asked for, else as this model is served.

    Raises:
        APIError: origins are asked of an engine that does not know them.
    """
    engine = model.description.engine
    if body.speculation.origins and engine != "native":
        raise APIError(
            400, f"speculation.origins: {engine}, which serves this model, does not tell them", param="speculation"
        )
    return body.speculate(model.description.decoder, model.config.num_draft_tokens)


async def _chunks(
    service: Service,
    model: ServedModel,
    body: CompletionRequest,
    choices: list[Choice],
    key: APIKey | None,
    head: dict[str, Any],
) -> AsyncGenerator[dict[str, Any], None]:
    options = body.stream_options
    told = dict.fromkeys(range(len(choices)), 0)
    echoed: set[int] = set()
    async with (
        service.generating(model, choices, key),
        opened(choices, model.engine),
        aclosing(stream_all(choices)) as deltas,
    ):
        async for choice, delta in deltas:
            echo = bool(body.echo) and choice.index not in echoed
            if not delta.text and not echo and choice.finish_reason is None:
                continue
            echoed.add(choice.index)
            entry = _delta(model, body, choice, delta, told, echo=echo)
            chunk = {**head, "choices": [{**entry, "finish_reason": choice.finish_reason}]}
            if options is not None and options.continuous_usage_stats:
                chunk["usage"] = totals(choices)["usage"]
            yield chunk
    if options is not None and options.include_usage:
        yield {**head, "choices": [], **totals(choices)}


def _delta(
    model: ServedModel, body: CompletionRequest, choice: Choice, delta: Delta, told: dict[int, int], *, echo: bool
) -> dict[str, Any]:
    """One step of a choice; the first one brings the prompt along where it is echoed."""
    prompt = model.tokenizer.decode(choice.prompt) if body.echo else ""
    entry: dict[str, Any] = {"index": choice.index, "text": (prompt if echo else "") + delta.text, "logprobs": None}
    if body.logprobs is not None:
        fresh = choice.text.logprobs[told[choice.index] :]
        told[choice.index] = len(choice.text.logprobs)
        before = _prompt_entries(model, choice) if echo else []
        entry["logprobs"] = _logprobs(model, [*before, *((len(prompt) + place, one) for place, one in fresh)])
    if body.speculation.origins:
        entry["origins"] = delta.pieces
        entry["tokens"] = choice.text.tokens
    return entry


def _choice(model: ServedModel, body: CompletionRequest, choice: Choice) -> dict[str, Any]:
    text = "".join(piece for piece, _ in choice.pieces)
    prompt = model.tokenizer.decode(choice.prompt) if body.echo else ""
    entry: dict[str, Any] = {"index": choice.index, "text": prompt + text, "logprobs": None}
    if body.logprobs is not None:
        before = _prompt_entries(model, choice) if body.echo else []
        after = [(len(prompt) + place, entry) for place, entry in choice.text.logprobs]
        entry["logprobs"] = _logprobs(model, [*before, *after])
    if body.speculation.origins:
        entry["origins"] = choice.pieces
    return {**entry, "finish_reason": choice.finish_reason}


def _prompt_entries(model: ServedModel, choice: Choice) -> list[tuple[int, TokenLogprob | None]]:
    """Place and log-probabilities of each prompt token; the first has none, so its id stands alone."""
    entries: list[tuple[int, TokenLogprob | None]] = []
    place = 0
    for token, known in zip(choice.prompt, choice.prompt_logprobs or [], strict=False):
        entries.append((place, known or TokenLogprob(token, float("nan"))))
        place += len(piece(model.tokenizer, token))
    return entries


def _logprobs(
    model: ServedModel, entries: "list[tuple[int, TokenLogprob | None]] | list[tuple[int, TokenLogprob]]"
) -> dict[str, Any]:
    """OpenAI's four parallel lists."""

    def text(token: int) -> str:
        return piece(model.tokenizer, token)

    known = [(place, entry) for place, entry in entries if entry is not None]
    return {
        "tokens": [text(entry.token) for _, entry in known],
        "token_logprobs": [None if entry.logprob != entry.logprob else entry.logprob for _, entry in known],
        "top_logprobs": [
            {text(token): value for token, value in reversed(entry.top)} if entry.logprob == entry.logprob else None
            for _, entry in known
        ],
        "text_offset": [place for place, _ in known],
    }


def _repeats(choices: list[Choice]) -> int:
    """How many choices share the first prompt (all prompts have the same n)."""
    first = choices[0].prompt
    return sum(choice.prompt is first for choice in choices)
