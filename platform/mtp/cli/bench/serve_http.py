"""`mtp bench serve`: tokens a second through HTTP against the engine in this process, MTP against standard decoding.

Closed loops of 1, 4 and 16 streaming clients: each sends its next request when the last one has ended. All contestants
answer the same prompts with the same number of greedy tokens. The clients run in this process and take their share of
the machine, as clients on it do.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from mtp.cli.bench.harness import Contestant, Measured, OnRound, pairwise, take_turns
from mtp.cli.bench.report import Ratio
from mtp.config import ServeConfig
from mtp.errors import MTPError

CONCURRENCY = (1, 4, 16)
HTTP_TARGET, MTP_TARGET = 0.9, 1.0
CONNECT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ServeSize:
    """How much each client asks for."""

    prompt_tokens: int = 32
    new_tokens: int = 96
    requests: int = 2
    """Of each client, in a round."""


SMOKE = ServeSize(prompt_tokens=8, new_tokens=8, requests=1)


class Latencies:
    """What the clients of one contestant waited for, in seconds."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.between: list[float] = []

    def detail(self) -> dict[str, object]:
        """p50 and p99 in milliseconds."""
        return {"first ms p50/p99": _percentiles(self.first), "next ms p50/p99": _percentiles(self.between)}


def bench_serve(
    folder: Path, size: ServeSize, rounds: int, concurrency: Sequence[int], on_round: OnRound
) -> tuple[list[Measured], list[Ratio]]:
    """The model in `folder`, deployed on the cluster that this process has joined."""
    measured: list[Measured] = []
    ratios: list[Ratio] = []
    with _deployed(folder) as (url, config):
        for clients in concurrency:
            found = _round_of(folder, url, config, _prompts(folder, size, clients), size, rounds, on_round)
            http, engine, standard = found
            measured += found
            ratios += [
                Ratio.of(f"http_vs_engine_c{clients}", pairwise(http, engine), HTTP_TARGET, "higher"),
                Ratio.of(f"mtp_vs_standard_c{clients}", pairwise(http, standard), MTP_TARGET, "higher"),
            ]
    return measured, ratios


def _round_of(
    folder: Path,
    url: str,
    config: ServeConfig,
    prompts: list[list[int]],
    size: ServeSize,
    rounds: int,
    on_round: OnRound,
) -> list[Measured]:
    """MTP over HTTP, MTP in this process, standard decoding over HTTP."""
    work = len(prompts) * size.requests * size.new_tokens
    waits = {"mtp": Latencies(), "standard": Latencies()}

    def over_http(decoder: str) -> Callable[[], object]:
        return lambda: asyncio.run(_clients(url, prompts, size, decoder, waits[decoder]))

    suffix = f"{len(prompts)} at once"
    http, engine, standard = f"HTTP, MTP, {suffix}", f"engine, MTP, {suffix}", f"HTTP, standard, {suffix}"
    contestants = [
        Contestant(http, over_http("mtp"), work),
        Contestant(engine, _in_process(folder, config, prompts, size), work),
        Contestant(standard, over_http("standard"), work),
    ]
    found = take_turns(contestants, rounds, on_round)
    details = {http: waits["mtp"].detail(), engine: {}, standard: waits["standard"].detail()}
    return [
        replace(found[name], contestant=replace(found[name].contestant, detail=detail))
        for name, detail in details.items()
    ]


async def _clients(url: str, prompts: list[list[int]], size: ServeSize, decoder: str, waits: Latencies) -> None:
    """One closed loop a prompt, all at once."""
    limits = httpx.Limits(max_connections=len(prompts))
    async with httpx.AsyncClient(base_url=url, timeout=CONNECT_TIMEOUT_S, limits=limits) as client:
        await asyncio.gather(*(_loop(client, prompt, size, decoder, waits) for prompt in prompts))


async def _loop(client: httpx.AsyncClient, prompt: list[int], size: ServeSize, decoder: str, waits: Latencies) -> None:
    body = {
        "prompt": prompt,
        "max_tokens": size.new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "speculation": {"decoder": decoder},
    }
    for _ in range(size.requests):
        last, first, tail = time.perf_counter(), True, b""
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for chunk in response.aiter_raw():
                now = time.perf_counter()
                (waits.first if first else waits.between).append(now - last)
                last, first, tail = now, False, (tail + chunk)[-32:]
        if response.status_code != httpx.codes.OK or b"[DONE]" not in tail:
            raise MTPError(f"a stream of the benchmark ended early with status {response.status_code}: {tail!r}")


def _in_process(folder: Path, config: ServeConfig, prompts: list[list[int]], size: ServeSize) -> Callable[[], object]:
    """The same requests on an engine of this process, set up as a replica's is."""
    import torch

    from mtp.checkpoint import load_model
    from mtp.decode import Engine, EngineOptions, Request, Sampling, default_speculation

    torch.set_num_threads(config.num_threads)
    model = load_model(folder)
    options = EngineOptions(max_batch_size=config.max_batch_size, max_batch_tokens=config.max_batch_tokens)
    engine = Engine(model, options=options)
    request = Sampling(max_tokens=size.new_tokens, ignore_eos=True)

    def run() -> None:
        for _ in range(size.requests):
            for prompt in prompts:
                engine.add(Request(prompt=prompt, sampling=request, speculation=default_speculation(model)))
            while engine.has_work:
                engine.step()

    return run


@contextmanager
def _deployed(folder: Path) -> Iterator[tuple[str, ServeConfig]]:
    from cluster.ports import free_ports
    from serve.deploy import deploy, undeploy

    with tempfile.TemporaryDirectory(prefix="mtp-bench-") as private:
        keys = str(Path(private) / "no-keys.json")
        config = ServeConfig(app_name="mtp-bench", port=free_ports(1)[0], max_batch_size=16, api_keys=keys)
        try:
            yield deploy(str(folder), config), config
        finally:
            undeploy(config.app_name)


def _prompts(folder: Path, size: ServeSize, count: int) -> list[list[int]]:
    """Different prompts of one length, from this file's own text."""
    from mtp.tokenizer import Tokenizer

    ids = Tokenizer.load(folder).encode(Path(__file__).read_text(encoding="utf-8"))
    return [ids[place * 7 : place * 7 + size.prompt_tokens] for place in range(count)]


def _percentiles(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return "-"
    cuts = statistics.quantiles(seconds, n=100)
    return f"{1000 * cuts[49]:.1f}/{1000 * cuts[98]:.1f}"
