"""Open-loop load on an endpoint: requests come when they come, whether or not the last ones have ended.

Arrivals are Poisson, at shares of the rate that the closed loop reached; what a user waits for grows as the share comes
near 1. Also the time of a request that no engine sees, which is what Ray Serve costs by itself. Knows servers and
figures; nothing of how they were started.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from mtp.cli.bench.serve_clients import Latencies, Server, ServeSize, percentiles, stream_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.25, 0.5, 0.75, 0.9)
"""Of the closed loop's rate."""
OVERHEAD_REQUESTS = 100
CONNECTIONS = 256


@dataclass
class LoadPoint:
    """One rate of arrivals, and what its requests waited for."""

    share: float
    """Of the closed loop's rate."""
    rate: float
    """Requests a second that arrived."""
    waits: Latencies = field(default_factory=Latencies)
    whole: list[float] = field(default_factory=list)
    """Seconds from arrival to last token."""

    def entry(self) -> dict[str, Any]:
        """A row of the report."""
        return {
            "name": f"open loop, {self.share:.0%} of the closed loop's rate",
            "unit": "requests/s",
            "median": self.rate,
            "detail": {**self.waits.detail(), "whole ms p50/p99": percentiles(self.whole)},
        }


async def open_loop(server: Server, prompts: list[list[int]], size: ServeSize, capacity: float) -> list[LoadPoint]:
    """`size.arrivals` requests at each of SHARES of `capacity` requests a second.

    Raises:
        MTPError: one was refused, or ended early.
    """
    generator = random.Random(0)
    points = [LoadPoint(share, share * capacity) for share in SHARES]
    for point in points:
        async with server.connect(CONNECTIONS) as client:
            arrived = []
            for number in range(size.arrivals):
                prompt = prompts[number % len(prompts)]
                arrived.append(asyncio.create_task(_arrive(client, server.asked, prompt, size, point)))
                await asyncio.sleep(generator.expovariate(point.rate))
            await asyncio.gather(*arrived)
    return points


async def _arrive(
    client: httpx.AsyncClient, asked: dict[str, object], prompt: list[int], size: ServeSize, point: LoadPoint
) -> None:
    began = time.perf_counter()
    await stream_once(client, prompt, size, asked, point.waits)
    point.whole.append(time.perf_counter() - began)


def overhead_entry(url: str) -> dict[str, Any]:
    """The report's row of requests that no engine sees, one after the other on one connection."""
    seconds = []
    with httpx.Client(base_url=url) as client:
        for _ in range(OVERHEAD_REQUESTS):
            began = time.perf_counter()
            client.get("/health").raise_for_status()
            seconds.append(time.perf_counter() - began)
    return {
        "name": "Ray Serve alone, GET /health",
        "unit": "requests/s",
        "median": 1 / statistics.median(seconds),
        "detail": {"ms p50/p99": percentiles(seconds)},
    }


def latency_figure(points: Sequence[LoadPoint]) -> "Figure":
    """Milliseconds to the first token and to the last, p50 and p99, against the rate of arrivals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    waits = {"first token": [point.waits.first for point in points], "whole answer": [point.whole for point in points]}
    for panel, (name, seconds) in zip(panels, waits.items(), strict=True):
        for place, (label, colour) in {49: ("p50", "#0072B2"), 98: ("p99", "#D55E00")}.items():
            heights = [1000 * statistics.quantiles(found, n=100, method="inclusive")[place] for found in seconds]
            panel.plot([point.rate for point in points], heights, marker="o", color=colour, label=label)
        panel.set_title(name)
        panel.set_xlabel("requests a second")
        panel.set_ylabel("ms")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend()
    return figure
