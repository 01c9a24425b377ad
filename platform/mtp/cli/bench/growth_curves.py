"""What `mtp bench growth` measures: training, decoding and preparing, each against what makes it more work.

Random weights and random text where the result does not matter, since the arithmetic is the same.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mtp.cli.bench.bench_data_set import bench_config, bench_text, prepare_bench_data
from mtp.cli.bench.data_prepare import tokenize_seconds
from mtp.cli.bench.growth import Curve, measure_curve
from mtp.cli.bench.harness import OnRound
from mtp.cli.bench.platform_run import run_platform
from mtp.cli.bench.train_model import StepSize, step_of

STEP = StepSize(hidden_size=256, seq_len=256, rows=2, layers=4, vocab_size=4096)
NEW_TOKENS = 16


@dataclass(frozen=True)
class GrowthSizes:
    """What is measured, each in one unit of work after the other."""

    step: StepSize = STEP
    rows: tuple[int, ...] = (1, 2, 4, 8)
    lengths: tuple[int, ...] = (128, 256, 512, 1024)
    horizons: tuple[int, ...] = (1, 2, 3, 4)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    prompts: tuple[int, ...] = (64, 128, 256, 512, 1024)
    megabytes: tuple[int, ...] = (5, 10, 20, 40)
    workers: tuple[int, ...] = (1, 2)
    worker_steps: int = 24


SMOKE = GrowthSizes(
    step=StepSize(hidden_size=64, seq_len=32, rows=1, layers=2, vocab_size=512),
    rows=(1, 2), lengths=(16, 32), horizons=(1, 2), batches=(1, 2), prompts=(8, 16), megabytes=(1, 2), workers=(1, 2),
    worker_steps=4,
)  # fmt: skip


def curves(sizes: GrowthSizes, smoke: bool, rounds: int, on_round: OnRound) -> Iterator[Curve]:
    """All of them, one after the other. The process must be connected to Ray."""
    step = sizes.step
    training = {
        "training step, by rows": {count: step_of(replace(step, rows=count), 2) for count in sizes.rows},
        "training step, by tokens of a row": {
            length: step_of(replace(step, seq_len=length), 2) for length in sizes.lengths
        },
        "training step, by horizons": {n: step_of(step, n) for n in sizes.horizons},
    }
    for name, runs in training.items():
        yield measure_curve(name, runs, rounds, on_round)
    yield measure_curve(
        f"{NEW_TOKENS} tokens, by batch",
        {n: _decoding(sizes, n, 4, NEW_TOKENS) for n in sizes.batches},
        rounds,
        on_round,
    )
    yield measure_curve(
        "first token, by tokens of the prompt", {n: _decoding(sizes, 1, n, 1) for n in sizes.prompts}, rounds, on_round
    )
    yield _preparing(sizes, on_round)
    yield _workers(sizes, smoke, on_round)


def _decoding(sizes: GrowthSizes, batch: int, prompt: int, new: int) -> Callable[[], None]:
    """One batch of requests from prompt to last token, standard decoding, with nothing of earlier ones in the cache."""
    import torch

    from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation
    from mtp.model import MTPModel

    torch.manual_seed(0)
    longest = max(*sizes.prompts, NEW_TOKENS) + NEW_TOKENS
    config = replace(sizes.step, seq_len=longest).config(2)
    options = EngineOptions(max_batch_size=batch, max_model_len=longest, prefix_caching=False)
    engine = Engine(MTPModel(config).eval(), options=options)
    prompts = torch.randint(config.vocab_size, (batch, prompt)).tolist()

    def run() -> None:
        for ids in prompts:
            wish = Sampling(max_tokens=new, ignore_eos=True)
            engine.add(Request(prompt=ids, sampling=wish, speculation=Speculation(decoder="standard")))
        while engine.has_work:
            engine.step()

    return run


def _preparing(sizes: GrowthSizes, on_round: OnRound) -> Curve:
    """Stage "tokenize" of one prepare each, with one tokenizer."""
    base = bench_config(True, steps=1)
    prepare_bench_data(base)
    seconds = []
    for size in sizes.megabytes:
        on_round(1, 1, f"prepare, {size} MB")
        corpus = str(bench_text(size * 1_000_000))
        seconds.append(tokenize_seconds(base.data.model_copy(update={"corpus": corpus})))
    return Curve("prepare, by MB of text", sizes.megabytes, tuple(seconds))


def _workers(sizes: GrowthSizes, smoke: bool, on_round: OnRound) -> Curve:
    """A step of one global batch, shared by more and more workers of one thread."""
    seconds = []
    prepare_bench_data(bench_config(smoke, steps=1))
    for count in sizes.workers:
        on_round(1, 1, f"training, {count} workers")
        config = bench_config(
            smoke, num_workers=count, threads_per_worker=1, zero_stage=0, steps=sizes.worker_steps,
            log_every=max(sizes.worker_steps // 4, 1), evaluate_rows=8,
        )  # fmt: skip
        rates = run_platform(config).tokens_per_s
        seconds.append(config.train.batch_size * config.data.seq_len / statistics.harmonic_mean(rates))
    return Curve("training step of one batch, by workers of a thread", sizes.workers, tuple(seconds))
