"""`mtp bench train --platform`: the whole platform against a bare PyTorch loop, Hugging Face's Trainer, and itself.

Ray Data, Ray Train, DeepSpeed and MLflow with one worker, against a loop of forward, loss, backward, clipping and AdamW
on the same batches that lie in memory, alone and in a worker of Ray Train; then two workers of one thread against one
of one thread: each with the rows that the one has, and with half of them. Nothing is sharded, as the model fits many
times; what ZeRO 1 costs two workers is told beside it. Rates leave out start-up, which has a table of its own, and
checkpoints.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

from mtp.cli.bench.bare_loops import bare_loop_rate, ray_train_rate, trainer_rate
from mtp.cli.bench.bench_data_set import bench_config, prepare_bench_data
from mtp.cli.bench.harness import Contestant, Measured, OnRound
from mtp.cli.bench.platform_run import PlatformRun, run_platform
from mtp.cli.bench.report import Ratio
from mtp.config import Config

PLATFORM, BARE, IN_RAY = "platform", "bare loop", "bare loop in Ray Train"
PLATFORM_1, TRAINER = "platform, one horizon", "Hugging Face Trainer, one horizon"
ONE, TWO, HALVES = "1 worker, 1 thread", "2 workers, 1 thread each", "2 workers, 1 thread each, half the rows each"
SHARDED = "2 workers, 1 thread each, ZeRO 1"
INTERVALS = 6


def bench_platform(
    smoke: bool, rounds: int, steps: int, on_round: OnRound
) -> tuple[list[dict[str, Any] | Measured], list[Ratio]]:
    """Contestants and ratios. The process must be connected to Ray."""
    common = {"steps": steps, "log_every": max(steps // INTERVALS, 1), "evaluate_rows": 8}
    cores = os.cpu_count() or 1
    single = common | {"threads_per_worker": 1, "zero_stage": 0}
    whole = bench_config(smoke, num_workers=1, threads_per_worker=cores, **common)
    prepare_bench_data(whole)
    plain, doubled = _one_horizon(whole), 2 * whole.train.batch_size
    startups: list[PlatformRun] = []

    def platform(config: Config) -> Callable[[], float | None]:
        def run() -> float:
            startups.append(run_platform(config))
            return startups[-1].rate

        return run

    runs: dict[str, Callable[[], float | None]] = {
        PLATFORM: platform(whole),
        BARE: lambda: bare_loop_rate(whole, cores),
        IN_RAY: lambda: ray_train_rate(whole, cores),
        PLATFORM_1: platform(plain),
        TRAINER: lambda: trainer_rate(plain, cores),
        ONE: platform(bench_config(smoke, num_workers=1, **single)),
        TWO: platform(bench_config(smoke, num_workers=2, batch_size=doubled, **single)),
        SHARDED: platform(bench_config(smoke, num_workers=2, batch_size=doubled, **single | {"zero_stage": 1})),
        HALVES: platform(bench_config(smoke, num_workers=2, **single)),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for current in range(1, rounds + 1):
        for name, run in runs.items():
            on_round(current, rounds, name)
            rate = run()
            rates[name] += [rate] if rate is not None else []
    rows = dict.fromkeys(runs, whole.train.batch_size) | {TWO: doubled, SHARDED: doubled}
    entries: list[dict[str, Any] | Measured] = []
    for name, found in rates.items():
        detail = {"batch": f"{rows[name]} x {whole.data.seq_len}", "steps": steps}
        measured = Measured(Contestant(name, lambda: None, 0, detail=detail), tuple(found))
        entries.append(measured if found else _missing(name))
    return [*entries, *_startup(startups)], list(_ratios(rates))


def _one_horizon(config: Config) -> Config:
    """The same without prediction modules, which Hugging Face's model cannot train."""
    prediction = config.model.prediction.model_copy(update={"kind": "none", "n_future": 1})
    return config.model_copy(update={"model": config.model.model_copy(update={"prediction": prediction})})


def _ratios(rates: dict[str, list[float]]) -> Iterator[Ratio]:
    for name, ours, theirs, target in (
        ("platform_vs_bare_loop", PLATFORM, BARE, 0.97),
        ("platform_vs_loop_in_ray_train", PLATFORM, IN_RAY, 0.97),
        ("workers_2_vs_1", TWO, ONE, 1.8),
        ("workers_2_vs_1_same_batch", HALVES, ONE, 1.0),
        ("zero_1_vs_0", SHARDED, TWO, 0.9),
        ("platform_vs_hf_trainer", PLATFORM_1, TRAINER, 1.0),
    ):
        if rates[theirs]:
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


def _missing(name: str) -> dict[str, Any]:
    return {"name": name, "unit": "", "median": None, "detail": {"missing": "transformers with accelerate"}}
