"""Cuts a corpus into chunks, each of which one task turns into one shard.

The cut follows from the files alone (their paths, sizes and kinds), never from the number of CPUs, so that every
machine makes the same shards. Pieces (whole small files, stretches of large ones) are ordered by a hash of their
name: every chunk is a random sample of the corpus. Knows nothing about text or tokens.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mtp.data.corpus import is_held_out, path_hash, split_paths
from mtp.data.documents import FileReport, can_be_cut, kind_of, text_bytes
from mtp.data.storage import Location
from mtp.errors import UsageError

Split = Literal["train", "validation"]

BYTES_PER_TOKEN = 4
"""A guess that only decides how many rows a shard gets."""

PIECE_BYTES = 4 << 20
_SMALLEST_CHUNK = 512 << 10
_MOST_CHUNKS = 64
"""Corpora that would give fewer shards than this are cut finer, so that many CPUs have work."""


class Piece(BaseModel):
    """Documents that begin in [start, stop) of a file; the unit is that of `FileReport.length`."""

    model_config = ConfigDict(frozen=True)

    path: str
    url: str
    start: int
    stop: int
    bytes: int


class Chunk(BaseModel):
    """What one task reads and one shard holds.

    `by_document` is the held-out share where the split goes through every file (a corpus of one file); else 0.
    """

    model_config = ConfigDict(frozen=True)

    split: Split
    number: int
    pieces: tuple[Piece, ...]
    by_document: float = 0.0

    @property
    def bytes(self) -> int:
        """Size of its pieces."""
        return sum(piece.bytes for piece in self.pieces)

    def takes(self, key: str) -> bool:
        """Whether a document of its pieces belongs to its split."""
        if not self.by_document:
            return True
        return is_held_out(key, self.by_document) == (self.split == "validation")


@dataclass(frozen=True)
class SplitPieces:
    """The pieces of each split in hashed order, and how they were told apart (for the user)."""

    train: list[Piece]
    validation: list[Piece]
    rule: str
    by_document: float = 0.0


def split_pieces(reports: Sequence[FileReport], held_out: float) -> SplitPieces:
    """Held-out files by a hash of their path; a single file is cut (text) or split by document (JSONL, parquet)."""
    if len(reports) > 1:
        _, validation = split_paths([report.path for report in reports], held_out)
        held = set(validation)
        return SplitPieces(
            train=_hashed(piece for report in reports if report.path not in held for piece in _pieces(report)),
            validation=_hashed(piece for report in reports if report.path in held for piece in _pieces(report)),
            rule=f"{len(held)} of {len(reports)} files, by a hash of their path",
        )
    report = reports[0]
    if kind_of(report.path)[0] == "text":
        head, tail = _cut_text(report, held_out)
        return SplitPieces([head], [tail], rule=f"the last {tail.bytes} bytes of the only file")
    pieces = _hashed(_pieces(report))
    return SplitPieces(
        pieces, pieces, rule=f"about {held_out:.0%} of the only file's documents, by hash", by_document=held_out
    )


def make_chunks(pieces: SplitPieces, rows_per_shard: int, seq_len: int) -> list[Chunk]:
    """All chunks of both splits; each holds at least one piece."""
    total = sum(piece.bytes for piece in pieces.train)
    target = min(max(total // _MOST_CHUNKS, _SMALLEST_CHUNK), rows_per_shard * seq_len * BYTES_PER_TOKEN)
    chunks: list[Chunk] = []
    splits: tuple[tuple[Split, list[Piece]], ...] = (("train", pieces.train), ("validation", pieces.validation))
    for split, mine in splits:
        for number, group in enumerate(_groups(mine, target)):
            chunks.append(Chunk(split=split, number=number, pieces=tuple(group), by_document=pieces.by_document))
    return chunks


def sample_pieces(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """The first pieces of hashed order, up to `limit` bytes but at least one: what the tokenizer is trained on."""
    chosen, total = list(pieces[:1]), sum(piece.bytes for piece in pieces[:1])
    for piece in pieces[1:]:
        if total + piece.bytes > limit:
            break
        chosen.append(piece)
        total += piece.bytes
    return chosen


def _groups(pieces: Iterable[Piece], target: int) -> Iterator[list[Piece]]:
    """Consecutive pieces of about `target` bytes together."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        if group and size + piece.bytes / 2 > target:
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.bytes
    if group:
        yield group


def _pieces(report: FileReport) -> list[Piece]:
    parts = max(1, min(report.length, report.size // PIECE_BYTES)) if can_be_cut(report.path) else 1
    edges = [report.length * part // parts for part in range(parts + 1)]
    is_parquet = kind_of(report.path)[0] == "parquet"
    return [
        Piece(
            path=report.path,
            url=report.url,
            start=start,
            stop=stop,
            bytes=max(1, report.size // parts if is_parquet else stop - start),
        )
        for start, stop in itertools.pairwise(edges)
    ]


def _hashed(pieces: Iterable[Piece]) -> list[Piece]:
    return sorted(pieces, key=lambda piece: (path_hash(f"{piece.path}#{piece.start}"), piece.path, piece.start))


def _cut_text(report: FileReport, held_out: float) -> tuple[Piece, Piece]:
    """A text file as its head and its held-out tail, cut after a line end, else between two characters."""
    content = text_bytes(report.path, report.url)
    wanted = int(len(content) * (1 - held_out))
    cut = content.find(b"\n", wanted) + 1 or content.rfind(b"\n", 0, wanted) + 1
    if not 0 < cut < len(content):
        cut = wanted
        while cut < len(content) and content[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
            cut += 1
    if not 0 < cut < len(content):
        raise UsageError(f"the corpus {Location.of(report.url)} is too short to hold out a part; add text")

    def piece(start: int, stop: int) -> Piece:
        return Piece(path=report.path, url=report.url, start=start, stop=stop, bytes=stop - start)

    return piece(0, cut), piece(cut, len(content))
