"""`mtp bench serve`: tokens a second through HTTP against the engine in this process, standard decoding, and vLLM.

Closed loops of 1, 4 and 16 streaming clients: each sends its next request when the last one has ended. All contestants
answer the same prompts with the same number of greedy tokens. The clients run in this process and take their share of
the machine, as clients on it do. vLLM's own server answers over HTTP too, with the same model exported and as many
threads, where there is an environment that has it. Then open loops (serve_load.py).
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mtp.cli.bench.harness import Contestant, Measured, OnRound, pairwise, take_turns
from mtp.cli.bench.report import Ratio
from mtp.cli.bench.serve_clients import Latencies, Server, ServeSize, closed_loops, connect
from mtp.cli.bench.serve_load import CONNECTIONS, LoadPoint, open_loop, overhead_entry
from mtp.config import ServeConfig

CONCURRENCY = (1, 4, 16)
HTTP_TARGET, MTP_TARGET, VLLM_TARGET = 0.9, 1.0, 1.0


class ServeResult(NamedTuple):
    """What was measured."""

    contestants: list[Measured]
    others: list[dict[str, Any]]
    """Rows of the report that are no contestants: open loops, and Ray Serve alone."""
    ratios: list[Ratio]
    points: list[LoadPoint]


def bench_serve(
    folder: Path,
    size: ServeSize,
    rounds: int,
    concurrency: Sequence[int],
    on_round: OnRound,
    vllm_python: str | None = None,
) -> ServeResult:
    """The model in `folder`, deployed on the cluster that this process has joined."""
    measured: list[Measured] = []
    ratios: list[Ratio] = []
    with _deployed(folder) as (url, config), _vllm(folder, config, vllm_python) as vllm:
        servers = {
            "HTTP, MTP": Server(partial(connect, url), {"speculation": {"decoder": "mtp"}}),
            "HTTP, standard": Server(partial(connect, url), {"speculation": {"decoder": "standard"}}),
            **({"vLLM, MTP": vllm} if vllm is not None else {}),
        }
        for clients in concurrency:
            prompts = _prompts(folder, size, clients)
            engine = _in_process(folder, config, prompts, size)
            found = _round_of(servers, engine, prompts, size, rounds, on_round)
            measured += found.values()
            http = found["HTTP, MTP"]
            ratios += [
                Ratio.of(f"http_vs_engine_c{clients}", pairwise(http, found["engine, MTP"]), HTTP_TARGET, "higher"),
                Ratio.of(f"mtp_vs_standard_c{clients}", pairwise(http, found["HTTP, standard"]), MTP_TARGET, "higher"),
            ]
            if vllm is not None:
                ratios.append(
                    Ratio.of(f"vs_vllm_c{clients}", pairwise(http, found["vLLM, MTP"]), VLLM_TARGET, "higher")
                )
        on_round(1, 1, "open loop")
        capacity = http.median / size.new_tokens
        points = asyncio.run(open_loop(servers["HTTP, MTP"], prompts, size, capacity))
        overhead = overhead_entry(url)
    return ServeResult(measured, [overhead, *(point.entry() for point in points)], ratios, points)


def _round_of(
    servers: dict[str, Server],
    engine: Callable[[], object],
    prompts: list[list[int]],
    size: ServeSize,
    rounds: int,
    on_round: OnRound,
) -> dict[str, Measured]:
    """Every server over HTTP, and the engine in this process, by name."""
    work, suffix = len(prompts) * size.requests * size.new_tokens, f", {len(prompts)} at once"
    waits = {name: Latencies() for name in servers}

    def over_http(name: str) -> Callable[[], object]:
        return lambda: asyncio.run(closed_loops(servers[name], prompts, size, waits[name]))

    runs = {**{name: over_http(name) for name in servers}, "engine, MTP": engine}
    found = take_turns([Contestant(name + suffix, run, work) for name, run in runs.items()], rounds, on_round)

    def told(name: str) -> Measured:
        one = found[name + suffix]
        return replace(one, contestant=replace(one.contestant, detail=waits[name].detail() if name in waits else {}))

    return {name: told(name) for name in runs}


def _in_process(folder: Path, config: ServeConfig, prompts: list[list[int]], size: ServeSize) -> Callable[[], object]:
    """The same requests on an engine of this process, set up as a replica's is."""
    import torch

    from mtp.checkpoint import load_model
    from mtp.decode import Engine, Request, Sampling, default_speculation
    from serve.native_engine import engine_options

    torch.set_num_threads(config.num_threads)
    model = load_model(folder)
    engine = Engine(model, options=engine_options(config, folder))
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
        config = ServeConfig(
            app_name="mtp-bench",
            port=free_ports(1)[0],
            max_batch_size=16,
            max_ongoing_requests=CONNECTIONS,  # an open loop waits in the engine's queue, and is not refused
            api_keys=keys,
        )
        try:
            yield deploy(str(folder), config), config
        finally:
            undeploy(config.app_name)


@contextmanager
def _vllm(folder: Path, config: ServeConfig, python: str | None) -> Iterator[Server | None]:
    """vLLM's server with the same model and as many drafts as our engine may make; None without `python`."""
    if python is None:
        yield None
        return
    from mtp.checkpoint import load_model_config
    from serve.vllm_server import MODEL, VLLMServer

    theirs = config.model_copy(update={"engine": "vllm", "vllm_python": python})
    server = VLLMServer(folder, theirs, load_model_config(folder).n_future - 1)
    try:
        server.wait()
        yield Server(lambda _: server.async_client(), {"model": MODEL})
    finally:
        server.stop()


def _prompts(folder: Path, size: ServeSize, count: int) -> list[list[int]]:
    """Different prompts of one length, from this file's own text."""
    from mtp.tokenizer import Tokenizer

    ids = Tokenizer.load(folder).encode(Path(__file__).read_text(encoding="utf-8"))
    return [ids[place * 7 : place * 7 + size.prompt_tokens] for place in range(count)]
