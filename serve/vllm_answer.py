"""vLLM's answers as the steps of our engine: tokens by id, log-probabilities, and what became of its drafts.

Knows the fields of vLLM's /v1/completions; nothing of processes and connections. vLLM does not say which of a step's
tokens were drafts, so every token's origin is 0; acceptance by position comes whole, with the last step.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from mtp.decode import DecodeStats, StepOutput, Token, TokenLogprob
from serve.serving_engine import EngineStoppedError

FINISHED = (None, "stop", "length")
"""How vLLM ends what it has not given up; None: it goes on."""


async def steps_of(lines: AsyncIterator[str]) -> AsyncIterator[StepOutput]:
    """The events of a stream, each a step; the last one waits for the statistics that come behind it.

    Raises:
        EngineStoppedError: the stream ended early, or vLLM gave the request up.
    """
    so_far = DecodeStats()
    last: StepOutput | None = None
    async for line in lines:
        if not line.startswith("data: "):
            continue
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            break
        event = json.loads(data)
        if "error" in event:
            yield StepOutput(0, [], "error", error=f"vLLM: {event['error'].get('message', 'no reason given')}")
            return
        if not event["choices"]:
            so_far = stats_of(event, so_far.tokens)
            continue
        output = step_of(event["choices"][0])
        if output.finish_reason not in FINISHED:
            raise EngineStoppedError(f"vLLM ended a request with {output.finish_reason}")
        if output.tokens:
            so_far.count_step(len(output.tokens), 0, 0)
        output.so_far = so_far.copy()
        if output.finish_reason is not None:
            last = output
        elif output.tokens:
            yield output
    if last is None:
        raise EngineStoppedError("vLLM ended a stream without its last token")
    last.so_far = last.stats = so_far
    yield last


def step_of(choice: dict[str, Any]) -> StepOutput:
    """One choice of an event, or of a whole answer."""
    ids = choice.get("token_ids") or []
    known = _logprobs(choice.get("logprobs"))
    tokens = [Token(token, 0, known[place] if known else None) for place, token in enumerate(ids)]
    return StepOutput(0, tokens, choice.get("finish_reason"))


def whole_of(answer: dict[str, Any], prompt: list[int], max_tokens: int, top: int) -> StepOutput:
    """An answer that was not streamed, with the log-probabilities of its prompt; all in one step."""
    choice = answer["choices"][0]
    output = step_of(choice)
    if len(output.tokens) > max_tokens:  # the one that vLLM makes when none is wanted
        output.tokens, output.finish_reason = output.tokens[:max_tokens], "length"
    output.prompt_logprobs = prompt_logprobs_of(choice, prompt, top)
    output.so_far = output.stats = stats_of(answer, len(output.tokens))
    return output


def prompt_logprobs_of(choice: dict[str, Any], prompt: list[int], top: int) -> list[TokenLogprob | None]:
    """Of each prompt token; None for the first, which nothing predicts."""
    found: list[TokenLogprob | None] = []
    for token, entry in zip(prompt, choice["prompt_logprobs"], strict=True):
        values = {int(number): float(one["logprob"]) for number, one in (entry or {}).items()}
        found.append(TokenLogprob(token, values[token], _likeliest(values, top)) if values else None)
    return found


def stats_of(event: dict[str, Any], tokens: int) -> DecodeStats:
    """Passes and drafts of a request that made `tokens`, from vLLM's own account of its steps.

    The first pass, which reads the prompt, has no drafts. A pass that could not draft is not in the account, and shows
    in there being more tokens than passes and accepted drafts.
    """
    speculative = (event.get("metrics") or {}).get("speculative_decoding")
    if not speculative:
        return DecodeStats(target_passes=tokens, tokens=tokens)
    drafted, accepted = speculative.get("per_step_drafted") or [], speculative.get("per_step_accepted") or []
    positions = range(max(drafted, default=0))
    return DecodeStats(
        target_passes=max(1 + len(drafted), tokens - sum(accepted)),
        tokens=tokens,
        drafted_per_position=[sum(count > position for count in drafted) for position in positions],
        accepted_per_position=[sum(count > position for count in accepted) for position in positions],
    )


def _logprobs(lists: dict[str, Any] | None) -> list[TokenLogprob] | None:
    """OpenAI's parallel lists, in which tokens stand as `token_id:7`."""
    if lists is None:
        return None
    found = []
    for token, logprob, top in zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True):
        values = {_id(name): value for name, value in (top or {}).items()}
        found.append(TokenLogprob(_id(token), logprob, _likeliest(values, len(values))))
    return found


def _likeliest(values: dict[int, float], count: int) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(values.items(), key=lambda item: -item[1])[:count])


def _id(name: str) -> int:
    return int(name.removeprefix("token_id:"))
