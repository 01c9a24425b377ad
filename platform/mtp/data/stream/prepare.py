"""prepare: a corpus of raw text to a prepared data set, with a tokenizer trained on the way.

Reads like its stages: find files, scan them, split them, train the tokenizer on a sample, make shards in parallel,
publish all at once. A finished data set of the same text and settings is reused. The same text and settings give the
same bytes on any number of CPUs. Knows nothing about training.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mtp.config import DataConfig
from mtp.data.chunks import Chunk, Split, SplitPieces, make_chunks, sample_pieces, split_pieces
from mtp.data.corpus import Corpus, find_corpus
from mtp.data.documents import Columns, Document, FileReport, read_documents
from mtp.data.domains import encode_domains
from mtp.data.existing import find_existing
from mtp.data.given_tokenizer import given_tokenizer
from mtp.data.manifest import CorpusRecord, FileRecord, Manifest, SkippedFile
from mtp.data.prepared import PreparedDataset, open_dataset
from mtp.data.publication import SPLITS, Publication, publication
from mtp.data.shards import rows_per_group, sha256, token_dtype
from mtp.data.storage import Location
from mtp.data.stream.run_tasks import run_tasks
from mtp.data.stream.scan import scan_corpus
from mtp.data.stream.shard_task import ShardResult, ShardSettings, make_shard
from mtp.errors import MTPError, UsageError
from mtp.progress import OnStage, silent
from mtp.tokenizer import Tokenizer

SAMPLE_BYTES = 16 << 20
"""Text that the tokenizer is trained on, at most."""

PIPELINE_VERSION = 1
"""Raised when the same text and settings would give other shards."""

NAMED_SKIPS = 100
"""Files and documents left out that the manifest names; all are counted."""

OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedData:
    """What `prepare` made or found.

    Attributes:
        reused: it was there already, from the same text and settings.
        split_rule: how the held-out part was chosen, for the user.
    """

    path: str
    train: PreparedDataset
    validation: PreparedDataset
    reused: bool
    split_rule: str


def prepare(config: DataConfig, report: OnStage = silent) -> PreparedData:
    """Prepare `config.corpus` into `config.path`, on the Ray cluster that this process is connected to.

    The stages that `report` is told of are "scan", "train tokenizer" and "tokenize".

    Raises:
        UsageError: there is no corpus, or something else lies at `config.path` (see `config.overwrite`).
        MTPError: a file is unreadable or malformed, or nothing is left to hold out.
    """
    target = Location.of(config.path)
    corpus = find_corpus(config.corpus)
    files = scan_corpus(corpus, _columns(config), partial(report, "scan"))
    readable = _readable(corpus, files)
    given = given_tokenizer(config.tokenizer, config.vocab_size) if config.tokenizer else None
    fingerprint = _corpus_fingerprint(config, files, given)
    pieces = split_pieces(readable, config.held_out)
    existing = find_existing(target, fingerprint, config.overwrite)
    if existing is not None:
        return PreparedData(target.url, *existing, reused=True, split_rule=pieces.rule)

    tokenizer = given or _trained_tokenizer(pieces, config, report)
    with publication(target) as place:
        chunks = make_chunks(pieces, config.rows_per_shard, config.seq_len)
        results = _make_shards(chunks, place, tokenizer, config, partial(report, "tokenize"))
        record = _corpus_record(corpus, files, results, fingerprint)
        manifests = {split: _finish_split(split, results, place, tokenizer, config, record) for split in SPLITS}
        place.publish(manifests)
    train, validation = (open_dataset(target / split) for split in SPLITS)
    return PreparedData(target.url, train, validation, reused=False, split_rule=pieces.rule)


def _columns(config: DataConfig) -> Columns:
    return Columns(config.text_column, config.domain_column)


def _readable(corpus: Corpus, files: Sequence[FileReport]) -> list[FileReport]:
    """The files that hold text."""
    readable = [file for file in files if file.length and not file.problem]
    if not readable:
        first = next((file for file in files if file.problem), None)
        reason = f"{first.path}: {first.problem}" if first else "all are empty"
        raise UsageError(f"none of the {len(files)} files of {corpus.source} holds text ({reason})")
    return readable


def _corpus_fingerprint(config: DataConfig, files: Sequence[FileReport], given: Tokenizer | None) -> str:
    """Of all that decides the data set: every path and content, the settings, this pipeline's version."""
    decisive = {"text_column", "domain_column", "seq_len", "vocab_size", "held_out", "rows_per_shard"}
    settings = config.model_dump(include=decisive, exclude_none=True)
    identity = [PIPELINE_VERSION, settings, [[file.path, file.sha256] for file in files]]
    identity += [sha256(given.to_json().encode())] if given else []
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _trained_tokenizer(pieces: SplitPieces, config: DataConfig, report: OnStage) -> Tokenizer:
    report("train tokenizer", 0, 1)
    tokenizer = Tokenizer.train(_sample(pieces, config), config.vocab_size)
    report("train tokenizer", 1, 1)
    return tokenizer


def _sample(pieces: SplitPieces, config: DataConfig) -> Iterator[str]:
    """Texts of the training split that the tokenizer learns from."""
    for piece in sample_pieces(pieces.train, SAMPLE_BYTES):
        for found in read_documents(piece.path, piece.url, piece.start, piece.stop, _columns(config)):
            if isinstance(found, Document):
                yield found.text


def _make_shards(
    chunks: Sequence[Chunk], place: Publication, tokenizer: Tokenizer, config: DataConfig, on_bytes: OnBytes
) -> list[ShardResult]:
    """All shards, written; results by split and number."""
    settings = ShardSettings(
        workspace=place.workspace.url,
        tokenizer_json=tokenizer.to_json(),
        seq_len=config.seq_len,
        columns=_columns(config),
    )
    total, done = sum(chunk.bytes for chunk in chunks), 0
    on_bytes(done, total)
    results = []
    for result in run_tasks(partial(make_shard, settings=settings), chunks, ShardResult):
        results.append(result)
        done += result.bytes
        on_bytes(done, total)
    return sorted(results, key=lambda result: (result.split, result.number))


def _corpus_record(
    corpus: Corpus, files: Sequence[FileReport], results: Sequence[ShardResult], fingerprint: str
) -> CorpusRecord:
    whole = [SkippedFile(path=file.path, reason=file.problem) for file in files if file.problem]
    single = [skip for result in results for skip in result.skipped]
    return CorpusRecord(
        source=corpus.source,
        files=len(files),
        bytes=sum(file.size for file in files),
        documents=sum(result.shard.documents for result in results if result.shard),
        skipped_files=len(whole),
        skipped_documents=sum(result.skipped_documents for result in results),
        skipped=tuple((whole + single)[:NAMED_SKIPS]),
        fingerprint=fingerprint,
    )


def _finish_split(
    split: Split,
    results: Sequence[ShardResult],
    place: Publication,
    tokenizer: Tokenizer,
    config: DataConfig,
    corpus: CorpusRecord,
) -> Manifest:
    """Write what lies beside a split's shards, and describe it all."""
    mine = [result for result in results if result.split == split and result.shard]
    shards = tuple(result.shard for result in mine if result.shard)
    if not shards:
        raise MTPError(
            f"no document of {corpus.source} fell into the {split} part; add documents, or change data.held_out "
            f"({config.held_out})"
        )
    counts = np.sum([result.counts for result in mine], axis=0)
    domains = [entry for result in mine for entry in result.domains]
    folder = place.workspace / split
    return Manifest(
        split=split,
        seq_len=config.seq_len,
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        rows=sum(shard.rows for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        documents=sum(shard.documents for shard in shards),
        group_rows=rows_per_group(config.seq_len),
        shards=shards,
        tokenizer=_write(folder, "tokenizer.json", tokenizer.to_json().encode()),
        token_counts=_write(folder, "token_counts.json", json.dumps(counts.tolist()).encode()),
        domains=_write(folder, "domains.parquet", encode_domains(domains)) if domains else None,
        corpus=corpus,
    ).sealed()


def _write(folder: Location, name: str, content: bytes) -> FileRecord:
    (folder / name).write(content)
    return FileRecord(name=name, sha256=sha256(content))
