"""Streaming HTTP clients of `mtp bench serve`: what they ask for, in closed loops, and what they waited for.

Knows HTTP and OpenAI's completions; nothing of what answers.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from mtp.errors import MTPError

CONNECT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ServeSize:
    """How much each client asks for."""

    prompt_tokens: int = 32
    new_tokens: int = 96
    requests: int = 6
    """Of each client, in a round."""
    arrivals: int = 40
    """At each rate of the open loop."""


SMOKE = ServeSize(prompt_tokens=8, new_tokens=8, requests=1, arrivals=4)


@dataclass(frozen=True)
class Server:
    """Something that answers over HTTP."""

    connect: Callable[[int], httpx.AsyncClient]
    """A client for so many connections."""
    asked: dict[str, object]
    """What its requests have beside the prompt and the number of tokens."""


class Latencies:
    """What the clients of one contestant waited for, in seconds."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.between: list[float] = []

    def detail(self) -> dict[str, object]:
        """p50 and p99 in milliseconds."""
        return {"first ms p50/p99": percentiles(self.first), "next ms p50/p99": percentiles(self.between)}


def connect(url: str, connections: int) -> httpx.AsyncClient:
    """A client of the server at `url`, for so many connections."""
    limits = httpx.Limits(max_connections=connections)
    return httpx.AsyncClient(base_url=url, timeout=CONNECT_TIMEOUT_S, limits=limits)


async def closed_loops(server: Server, prompts: list[list[int]], size: ServeSize, waits: Latencies) -> None:
    """One closed loop a prompt, all at once."""
    async with server.connect(len(prompts)) as client:
        await asyncio.gather(*(_loop(client, prompt, size, server.asked, waits) for prompt in prompts))


async def _loop(
    client: httpx.AsyncClient, prompt: list[int], size: ServeSize, asked: dict[str, object], waits: Latencies
) -> None:
    for _ in range(size.requests):
        await stream_once(client, prompt, size, asked, waits)


async def stream_once(
    client: httpx.AsyncClient, prompt: list[int], size: ServeSize, asked: dict[str, object], waits: Latencies
) -> None:
    """One request to its end.

    Raises:
        MTPError: it was refused, or ended early.
    """
    body = {
        "prompt": prompt,
        "max_tokens": size.new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        **asked,
    }
    last, first, tail = time.perf_counter(), True, b""
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for chunk in response.aiter_raw():
                now = time.perf_counter()
                (waits.first if first else waits.between).append(now - last)
                last, first, tail = now, False, (tail + chunk)[-32:]
    except httpx.TransportError as error:
        raise MTPError(f"a server of the benchmark, {client.base_url}, broke a stream off: {error!r}") from None
    if response.status_code != httpx.codes.OK or b"[DONE]" not in tail:
        raise MTPError(f"a stream of the benchmark ended early with status {response.status_code}: {tail!r}")


def percentiles(seconds: Sequence[float]) -> str:
    """p50/p99 in milliseconds."""
    if len(seconds) < 2:
        return "-"
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"{1000 * cuts[49]:.1f}/{1000 * cuts[98]:.1f}"
