"""`mtp bench data --prepare`: what `mtp prepare` tokenizes in a second, against the bare tokenizers library.

Prepare's time is that of its stage "tokenize": starting Ray's processes, reading the files, encoding, packing,
compressing and writing shards, on all cores. The library's is one call on all cores with the texts already in memory.
"""

import tempfile
import time
from pathlib import Path

from mtp.cli.bench.bench_data_set import bench_config, bench_text, prepare_bench_data
from mtp.cli.bench.harness import Contestant, Measured, OnRound
from mtp.cli.bench.report import Ratio
from mtp.config import DataConfig

PREPARE, BARE = "mtp prepare", "tokenizers"
TARGET = 0.9
MEGABYTE = 1e6
TEXT_BYTES = 100_000_000


def bench_prepare(smoke: bool, rounds: int, on_round: OnRound) -> tuple[list[Measured], list[Ratio]]:
    """Bytes a second of the two, on 100 MB of Python's sources. The process must be connected to Ray."""
    import tokenizers

    from mtp.data.given_tokenizer import given_tokenizer

    config = bench_config(smoke, steps=1).data
    prepare_bench_data(bench_config(smoke, steps=1))
    if not smoke:
        config = config.model_copy(update={"corpus": str(bench_text(TEXT_BYTES))})
    texts = _texts(config)
    size = sum(len(text.encode()) for text in texts)
    tokenizer = tokenizers.Tokenizer.from_str(given_tokenizer(config.path, config.vocab_size).to_json())
    rates: dict[str, list[float]] = {PREPARE: [], BARE: []}
    for current in range(rounds + 1):
        for name in (PREPARE, BARE):
            on_round(current, rounds, name)
            began = time.perf_counter()
            seconds = tokenize_seconds(config) if name == PREPARE else None
            if seconds is None:
                _ = [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
                seconds = time.perf_counter() - began
            if current:
                rates[name].append(size / seconds)
    detail = {"corpus": f"{size / MEGABYTE:.1f} MB in {len(texts)} documents", "tokenizers": tokenizers.__version__}
    measured = [Measured(Contestant(n, lambda: None, size, "bytes", detail), tuple(rates[n])) for n in rates]
    ratios = [ours / theirs for ours, theirs in zip(rates[PREPARE], rates[BARE], strict=True)]
    return measured, [Ratio.of("prepare_vs_tokenizers", ratios, TARGET, "higher")]


def tokenize_seconds(config: DataConfig) -> float:
    """Of one prepare into a folder that is thrown away, with the tokenizer that lies at `config.path`.

    The process must be connected to Ray.
    """
    from mtp.data.stream.prepare import prepare

    clock: dict[str, float] = {}

    def note(stage: str, done: int, total: int) -> None:
        if stage == "tokenize":
            clock.setdefault("began", time.perf_counter())
            clock["ended"] = time.perf_counter()

    with tempfile.TemporaryDirectory(prefix="mtp-bench-") as folder:
        prepare(config.model_copy(update={"path": str(Path(folder) / "data"), "tokenizer": config.path}), note)
    return clock["ended"] - clock["began"]


def _texts(config: DataConfig) -> list[str]:
    """The documents of the corpus."""
    from mtp.data.corpus import find_corpus
    from mtp.data.documents import Columns, Document, inspect_file, read_documents

    texts = []
    for file in find_corpus(config.corpus).files:
        report = inspect_file(file, Columns(config.text_column))
        if report.problem or not report.length:
            continue
        found = read_documents(file.path, file.url, 0, report.length, Columns(config.text_column))
        texts += [document.text for document in found if isinstance(document, Document)]
    return texts
