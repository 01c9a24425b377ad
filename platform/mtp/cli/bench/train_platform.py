"""`mtp bench train --platform`: the whole platform against a bare PyTorch loop, Hugging Face's Trainer, and itself.

Ray Data, Ray Train, DeepSpeed and MLflow with one worker, against a loop of forward, loss, backward, clipping and AdamW
on the same batches that lie in memory; both alive at once, by turns of seconds (live_turns.py), in new processes in
every round: of two processes that do the same, one is faster by some per cent for as long as it lives. Then two workers
of one thread against one of one thread, a run each in every round: each with the rows that the one has, and with half
of them. Nothing is sharded, as the model fits many times; what ZeRO 1 costs two workers is told beside it. Rates leave
out start-up, which has a table of its own, and checkpoints.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from mtp.cli.bench.bare_loops import bare_loop, trainer
from mtp.cli.bench.bench_data_set import bench_config, prepare_bench_data
from mtp.cli.bench.harness import Contestant, Measured, OnRound
from mtp.cli.bench.live_turns import LiveTurns, Loop, Peer, steps_of
from mtp.cli.bench.platform_run import PlatformRun, run_platform
from mtp.cli.bench.report import Ratio
from mtp.config import Config

PLATFORM, BARE = "platform", "bare loop"
PLATFORM_1, TRAINER = "platform, one horizon", "Hugging Face Trainer, one horizon"
ONE, TWO, HALVES = "1 worker, 1 thread", "2 workers, 1 thread each", "2 workers, 1 thread each, half the rows each"
SHARDED = "2 workers, 1 thread each, ZeRO 1"
INTERVALS = 6
"""Logging intervals of a run that has the machine for itself."""
TURNS, LOG_EVERY = 4, 10
"""Of a live pair: turns in a round, and steps of a logging interval."""


@dataclass
class _Found:
    """What was measured so far."""

    entries: list[dict[str, Any] | Measured] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    runs: list[PlatformRun] = field(default_factory=list)

    def enter(self, name: str, config: Config, rates: list[float], **detail: object) -> None:
        self.rates[name] = rates
        told = {"batch": f"{config.train.batch_size} x {config.data.seq_len}", **detail}
        self.entries.append(Measured(Contestant(name, lambda: None, 0, detail=told), tuple(rates)))


def bench_platform(
    smoke: bool, rounds: int, steps: int, on_round: OnRound
) -> tuple[list[dict[str, Any] | Measured], list[Ratio]]:
    """Contestants and ratios; a run that has the machine for itself takes `steps`. The process is connected to Ray."""
    found = _Found()
    prepare_bench_data(bench_config(smoke, steps=steps))
    _live_pairs(found, smoke, rounds, on_round)
    _lone_runs(found, smoke, rounds, steps, on_round)
    return [*found.entries, *_startup(found.runs)], list(_ratios(found.rates))


def _live_pairs(found: _Found, smoke: bool, rounds: int, on_round: OnRound) -> None:
    """The platform against the loops of others."""
    cores = os.cpu_count() or 1
    turns, log_every = (2, 1) if smoke else (TURNS, LOG_EVERY)
    steps = steps_of(1 + turns, log_every)
    lasting = {"steps": steps, "log_every": log_every, "checkpoint.every_steps": steps}
    whole = bench_config(smoke, num_workers=1, threads_per_worker=cores, evaluate_rows=8, **lasting)
    pairs: list[tuple[str, str, Loop, Config]] = [(PLATFORM, BARE, bare_loop, whole)]
    if all(importlib.util.find_spec(package) for package in ("transformers", "accelerate")):
        pairs.append((PLATFORM_1, TRAINER, trainer, _one_horizon(whole)))
    else:
        absent = {"missing": "transformers with accelerate"}
        found.entries.append({"name": TRAINER, "unit": "", "median": None, "detail": absent})
    for name, peer_name, loop, config in pairs:
        ours: list[float] = []
        theirs: list[float] = []
        for current in range(1, rounds + 1):
            on_round(current, rounds, f"{name}, {peer_name}")
            with closing(Peer(loop, config, cores)) as peer:
                by_turns = LiveTurns(peer)
                found.runs.append(run_platform(config, by_turns.take))
            ours += by_turns.ours[1:]
            theirs += by_turns.theirs[1:]
        found.enter(name, config, ours, turns=turns, processes=rounds)
        found.enter(peer_name, config, theirs, turns=turns, processes=rounds)


def _lone_runs(found: _Found, smoke: bool, rounds: int, steps: int, on_round: OnRound) -> None:
    """Two workers against one."""
    common = {"threads_per_worker": 1, "steps": steps, "log_every": max(steps // INTERVALS, 1), "evaluate_rows": 8}
    one = bench_config(smoke, num_workers=1, zero_stage=0, **common)
    doubled = common | {"batch_size": 2 * one.train.batch_size}
    configs = {
        ONE: one,
        TWO: bench_config(smoke, num_workers=2, zero_stage=0, **doubled),
        SHARDED: bench_config(smoke, num_workers=2, zero_stage=1, **doubled),
        HALVES: bench_config(smoke, num_workers=2, zero_stage=0, **common),
    }
    runs: dict[str, list[PlatformRun]] = {name: [] for name in configs}
    for current in range(1, rounds + 1):
        for name, config in configs.items():
            on_round(current, rounds, name)
            runs[name].append(run_platform(config))
    for name, config in configs.items():
        found.runs += runs[name]
        found.enter(name, config, [run.rate for run in runs[name]], steps=steps)


def _one_horizon(config: Config) -> Config:
    """The same without prediction modules, which Hugging Face's model cannot train."""
    prediction = config.model.prediction.model_copy(update={"kind": "none", "n_future": 1})
    return config.model_copy(update={"model": config.model.model_copy(update={"prediction": prediction})})


def _ratios(rates: dict[str, list[float]]) -> Iterator[Ratio]:
    for name, ours, theirs, target in (
        ("platform_vs_bare_loop", PLATFORM, BARE, 0.97),
        ("workers_2_vs_1", TWO, ONE, 1.8),
        ("workers_2_vs_1_same_batch", HALVES, ONE, 1.0),
        ("zero_1_vs_0", SHARDED, TWO, 0.9),
        ("platform_vs_hf_trainer", PLATFORM_1, TRAINER, 1.0),
    ):
        if theirs in rates:
            pairs = zip(rates[ours], rates[theirs], strict=True)
            yield Ratio.of(name, [a / b for a, b in pairs], target, "higher")


def _startup(runs: list[PlatformRun]) -> list[dict[str, Any]]:
    """A row a stage, in seconds."""
    return [
        {
            "name": f"start-up: {stage}",
            "unit": "seconds",
            "median": sorted(run.startup[stage] for run in runs)[len(runs) // 2],
            "min": min(run.startup[stage] for run in runs),
            "max": max(run.startup[stage] for run in runs),
            "detail": {},
        }
        for stage in runs[0].startup
    ]
