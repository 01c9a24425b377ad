"""`mtp bench data`: the row stream against a plain memory map, and how long training waits for it.

The memory map holds the same rows and gathers them in the same order into the same tensors; it is the least that any
reader of shuffled rows does. Its files are in the page cache, as are the stream's.
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtp.cli.bench.bench_data_set import bench_config, prepare_bench_data
from mtp.cli.bench.harness import Contestant, Measured, OnRound, pairwise, take_turns
from mtp.cli.bench.platform_run import run_platform
from mtp.cli.bench.report import Ratio
from mtp.config import Config

if TYPE_CHECKING:
    import torch

    from mtp.data import TrainingData

STREAM, MEMMAP = "row stream", "memory map"
TOKENS_A_ROUND, SMOKE_TOKENS = 24_000_000, 20_000
STREAM_TARGET = 0.02
"""Of the memory map's rate: still hundreds of times what a worker's training step consumes."""


def bench_stream(smoke: bool, rounds: int, on_round: OnRound) -> tuple[list[Measured], list[Ratio]]:
    """Tokens a second of the two readers. The process must be connected to Ray."""
    from mtp.data import open_training_data

    config = bench_config(smoke, steps=1)
    prepare_bench_data(config)
    data = open_training_data(config.data)
    batches = max((SMOKE_TOKENS if smoke else TOKENS_A_ROUND) // (config.train.batch_size * data.seq_len), 1)
    work = batches * config.train.batch_size * data.seq_len
    detail = {
        "batch": f"{config.train.batch_size} x {data.seq_len}",
        "data set": f"{data.profile()['tokens']:,} tokens",
    }
    with tempfile.TemporaryDirectory(prefix="mtp-bench-") as folder:
        contestants = [
            Contestant(STREAM, _streaming(config, data, batches, rounds + 1), work, detail=detail),
            Contestant(MEMMAP, _mapped(config, data, batches, Path(folder)), work, detail=detail),
        ]
        measured = take_turns(contestants, rounds, on_round)
    ratios = pairwise(measured[STREAM], measured[MEMMAP])
    return list(measured.values()), [Ratio.of("stream_vs_memmap", ratios, STREAM_TARGET, "higher")]


def bench_data_wait(smoke: bool, steps: int) -> Ratio:
    """The share of a training's time in which the next batch was not there, by logging interval."""
    config = bench_config(smoke, steps=steps, log_every=max(steps // 6, 1))
    prepare_bench_data(config)
    return Ratio.of("data_wait_fraction", run_platform(config).data_wait, 0.01, "lower")


def _streaming(config: Config, data: "TrainingData", batches: int, turns: int) -> Callable[[], None]:
    """The next `batches` of one long stream, as training reads it: its start falls into the warm-up."""
    from mtp.data.stream.row_source import RankSlice
    from mtp.data.stream.row_stream import RowStream

    part = RankSlice(config.train.batch_size)
    stream = iter(RowStream(data, seed=config.data.seed, part=part, steps=batches * turns))

    def run() -> None:
        for _ in islice(stream, batches):
            pass

    return run


def _mapped(config: Config, data: "TrainingData", batches: int, folder: Path) -> Callable[[], None]:
    """The same rows from two memory maps."""
    sources, everything = np.zeros(data.rows, dtype=np.int64), np.arange(data.rows)
    files = []
    for name, column in zip(("tokens", "document"), data.take(sources, everything), strict=True):
        np.save(folder / f"{name}.npy", column)
        files.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    size = config.train.batch_size
    order = data.order(config.data.seed)

    def read() -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
        import torch

        _, rows = order.places(0, batches * size)
        for start in range(0, len(rows), size):
            tokens, document = (file[rows[start : start + size]] for file in files)
            yield torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(document)

    def run() -> None:
        for _ in read():
            pass

    return run
