"""One task of prepare: the text of a chunk to a shard file.

Reads the chunk's documents, orders them by a hash of their names, encodes them, packs them into rows, writes parquet.
The result depends on the chunk and the settings only. Knows nothing about other chunks.
"""

import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from mtp.data.chunks import Chunk, Split
from mtp.data.corpus import path_hash
from mtp.data.documents import Columns, Document, Unreadable, read_documents
from mtp.data.domains import DocumentDomain
from mtp.data.manifest import ShardRecord, SkippedFile
from mtp.data.packing import PADDING, pack_documents
from mtp.data.shards import encode_shard, sha256
from mtp.data.storage import Location
from mtp.tokenizer import Tokenizer

_BATCH_CHARACTERS = 2 << 20
_SEGMENT_CHARACTERS = 64 << 10
_NAMED_SKIPS = 20

# A line end between two characters that are no white space: byte-level BPE never joins tokens across it.
_SAFE_CUT = re.compile(r"(?<=\S)\n(?=\S)")

Ids = npt.NDArray[np.int32]


class ShardSettings(BaseModel):
    """What every task of a prepare knows."""

    model_config = ConfigDict(frozen=True)

    workspace: str
    tokenizer_json: str
    seq_len: int
    columns: Columns


class ShardResult(BaseModel):
    """What a task wrote; `shard` is None where the chunk held no documents of its split."""

    split: Split
    number: int
    bytes: int
    shard: ShardRecord | None
    counts: list[int]
    skipped_documents: int
    skipped: list[SkippedFile]
    domains: list[DocumentDomain] = []
    """Of each document in order, in the validation split."""


def make_shard(chunk: Chunk, settings: ShardSettings) -> ShardResult:
    """Write the shard of `chunk` into the workspace.

    Raises:
        MTPError: a file cannot be read or is malformed, or the shard cannot be written.
    """
    # One thread: the cluster runs a task on every CPU already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = _tokenizer(settings.tokenizer_json)
    documents, unreadable = _documents(chunk, settings.columns)
    ids = list(encode_documents(tokenizer, [document.text for document in documents]))
    skipped = [SkippedFile(path=entry.key, reason=entry.reason) for entry in unreadable]
    domains: list[DocumentDomain] = []
    if chunk.split == "validation":
        domains = [DocumentDomain(entry.domain, len(its) + 1) for entry, its in zip(documents, ids, strict=True)]
    shard, counts = None, np.zeros(tokenizer.vocab_size, dtype=np.int64)
    if ids:
        tokens, owner = pack_documents(ids, settings.seq_len, tokenizer.eos_id, tokenizer.vocab_size)
        counts = np.bincount(tokens[owner != PADDING], minlength=tokenizer.vocab_size)
        place = Location.of(settings.workspace) / chunk.split / f"shard-{chunk.number:05d}.parquet"
        content = encode_shard(tokens, owner)
        place.write(content)
        shard = ShardRecord(
            name=place.path.rsplit("/", 1)[-1],
            rows=len(tokens),
            tokens=int(counts.sum()),
            documents=len(ids),
            bytes=content.size,
            sha256=sha256(content),
        )
    return ShardResult(
        split=chunk.split,
        number=chunk.number,
        bytes=chunk.bytes,
        shard=shard,
        counts=counts.tolist(),
        skipped_documents=len(skipped),
        skipped=skipped[:_NAMED_SKIPS],
        domains=domains,
    )


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Ids]:
    """Ids of each text, as `tokenizer.encode` gives them; long texts are cut where that changes nothing."""
    batch: list[str] = []
    owners: list[int] = []
    size = 0
    done = 0
    held: list[list[Ids]] = [[] for _ in texts]

    def flush() -> None:
        for owner, ids in zip(owners, tokenizer.encode_batch(batch), strict=True):
            held[owner].append(np.array(ids, dtype=np.int32))

    for number, text in enumerate(texts):
        for segment in _segments(text):
            batch.append(segment)
            owners.append(number)
            size += len(segment)
        if size >= _BATCH_CHARACTERS:
            flush()
            yield from (np.concatenate(parts) for parts in held[done : number + 1])
            done, size = number + 1, 0
            batch, owners = [], []
    flush()
    yield from (np.concatenate(parts) for parts in held[done:])


def _segments(text: str) -> Iterator[str]:
    """`text` in stretches of about _SEGMENT_CHARACTERS, cut only where no token can cross."""
    start = 0
    while len(text) - start > 2 * _SEGMENT_CHARACTERS:
        cut = _SAFE_CUT.search(text, start + _SEGMENT_CHARACTERS)
        if cut is None:
            break
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


def _documents(chunk: Chunk, columns: Columns) -> tuple[list[Document], list[Unreadable]]:
    """The chunk's documents in the order of a hash of their names, and what was left out."""
    documents: list[Document] = []
    unreadable: list[Unreadable] = []
    for piece in chunk.pieces:
        for found in read_documents(piece.path, piece.url, piece.start, piece.stop, columns):
            if not chunk.takes(found.key):
                continue
            if isinstance(found, Document):
                documents.append(found)
            else:
                unreadable.append(found)
    return sorted(documents, key=lambda document: (path_hash(document.key), document.key)), unreadable


@lru_cache(maxsize=2)
def _tokenizer(json: str) -> Tokenizer:
    return Tokenizer.from_json(json)
