"""Asks a running endpoint the same greedy questions with standard and with MTP decoding, in turns.

A client like any other: it knows the HTTP interface and nothing behind it.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from mtp.errors import MTPError

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """One completion, as the client saw it."""

    text: str
    tokens: int
    seconds: float
    tokens_per_step: float


@dataclass(frozen=True)
class Comparison:
    """Both decoders over the same prompts, one request at a time."""

    standard_tokens_per_s: float
    mtp_tokens_per_s: float
    ratio: float
    """Median over the prompts of MTP's tokens/s over standard's."""
    tokens_per_step: float
    """Emitted tokens over target passes, of MTP."""
    identical: bool
    """Whether every prompt got the same text from both."""


def complete(client: httpx.Client, model: str, prompt: str | Sequence[int], max_tokens: int, decoder: str) -> Answer:
    """One greedy completion of exactly `max_tokens` tokens.

    Raises:
        MTPError: the endpoint does not answer, or answers with an error.
    """
    body = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "speculation": {"decoder": decoder},
    }
    began = time.perf_counter()
    try:
        response = client.post("/v1/completions", json=body, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise MTPError(f"the endpoint {client.base_url} does not answer ({error}); see `mtp status`") from None
    seconds = time.perf_counter() - began
    if response.status_code != httpx.codes.OK:
        raise MTPError(f"the endpoint {client.base_url} answered {response.status_code}: {response.text[:200]}")
    answer = response.json()
    usage = answer["usage"]
    per_step = usage["speculation"]["tokens_per_step"]
    return Answer(answer["choices"][0]["text"], usage["completion_tokens"], seconds, per_step)


def compare_decoders(
    url: str,
    model: str,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Standard and MTP take turns on every prompt, after one uncounted request each."""
    with httpx.Client(base_url=url) as client:
        for decoder in ("standard", "mtp"):
            complete(client, model, prompts[0], max_tokens, decoder)
        pairs = []
        for done, prompt in enumerate(prompts, start=1):
            pairs.append([complete(client, model, prompt, max_tokens, name) for name in ("standard", "mtp")])
            on_progress(done, len(prompts))
    standard, mtp = zip(*pairs, strict=True)
    return Comparison(
        standard_tokens_per_s=statistics.median(answer.tokens / answer.seconds for answer in standard),
        mtp_tokens_per_s=statistics.median(answer.tokens / answer.seconds for answer in mtp),
        ratio=statistics.median(b.tokens / b.seconds * a.seconds / a.tokens for a, b in pairs),
        tokens_per_step=statistics.mean(answer.tokens_per_step for answer in mtp),
        identical=all(a.text == b.text for a, b in pairs),
    )
