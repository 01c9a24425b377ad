"""Which domain each held-out document came from, and the documents of one domain as a data set of their own.

`domains.parquet` has one row a document, in the order in which they lie in the shards: its domain (the folder at the
top of its path in the corpus, or the value of `data.domain_column`) and its tokens, the end of text included.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtp.data.packing import pack_documents
from mtp.data.prepared import Array, Ints, OnBadShard, PreparedDataset
from mtp.errors import UsageError


class DocumentDomain(NamedTuple):
    """One document."""

    domain: str
    tokens: int


@dataclass(frozen=True)
class DomainDataset(PreparedDataset):
    """Rows of one domain's documents, packed anew; `location` and `manifest` (but for its rows) are the whole's."""

    tokens: Array
    document: Array

    def take(self, row_ids: Sequence[int] | Ints, on_bad_shard: OnBadShard | None = None) -> tuple[Array, Array]:
        """The rows with these ids, in this order; they lie in memory, so that no shard can be bad."""
        return self.tokens[row_ids], self.document[row_ids]


def encode_domains(documents: Sequence[DocumentDomain]) -> bytes:
    """The file's content."""
    names, lengths = zip(*documents, strict=True)
    columns = {"domain": pa.array(names, pa.string()).dictionary_encode(), "tokens": pa.array(lengths, pa.int64())}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def largest_domains(dataset: PreparedDataset, count: int) -> list[str]:
    """The `count` domains with the most tokens, the largest first; none where all documents are of one.

    Raises:
        UsageError: the data set does not say which domains its documents are of.
    """
    names, lengths = _documents(dataset)
    sizes: dict[str, int] = {}
    for name, length in zip(names, lengths.tolist(), strict=True):
        sizes[name] = sizes.get(name, 0) + length
    if len(sizes) == 1:
        return []
    return sorted(sizes, key=lambda name: (-sizes[name], name))[:count]


def domain_dataset(dataset: PreparedDataset, domain: str, max_rows: int) -> DomainDataset:
    """The first documents of a domain, as many as fill `max_rows` rows.

    Raises:
        UsageError: the data set does not say which domains its documents are of, or knows no such domain.
        BadShardError: a shard is missing or corrupt.
    """
    names, lengths = _documents(dataset)
    seq_len, eos_id = dataset.manifest.seq_len, dataset.manifest.eos_id
    mine = np.flatnonzero(np.asarray(names) == domain)
    if not len(mine):
        raise UsageError(f"{dataset.location} has no documents of the domain {domain!r}")
    mine = mine[: int(np.searchsorted(np.cumsum(lengths[mine]), max_rows * seq_len)) + 1]
    starts = _starts(dataset, lengths)[mine]
    stops = starts + lengths[mine] - 1  # without the end of text, which packing adds
    pairs = zip(starts // seq_len, stops // seq_len, strict=True)
    rows = np.unique(np.concatenate([np.arange(first, last + 1) for first, last in pairs]))
    flat = dataset.take(rows)[0].reshape(-1)
    places = np.searchsorted(rows, starts // seq_len) * seq_len + starts % seq_len
    documents = [
        flat[place : place + stop - start].astype(np.int32)
        for place, start, stop in zip(places, starts, stops, strict=True)
    ]
    tokens, document = pack_documents(documents, seq_len, eos_id, dataset.manifest.vocab_size)
    manifest = dataset.manifest.model_copy(update={"rows": min(len(tokens), max_rows)})
    return DomainDataset(dataset.location, manifest, tokens[:max_rows], document[:max_rows])


def _starts(dataset: PreparedDataset, lengths: Ints) -> Ints:
    """Position of each document's first token in the rows laid end to end: every shard begins with a row of its own."""
    before = np.concatenate([[0], np.cumsum(lengths)])
    counts = [shard.documents for shard in dataset.manifest.shards]
    firsts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    shift = dataset.shard_starts[:-1] * dataset.manifest.seq_len - before[firsts]
    return before[:-1] + np.repeat(shift, counts)


def _documents(dataset: PreparedDataset) -> tuple[list[str], Ints]:
    record = dataset.manifest.domains
    if record is None:
        raise UsageError(
            f"{dataset.location} does not say which domains its documents are of: it is no validation split, or was "
            f"prepared by an older version (prepare it again with data.overwrite=true)"
        )
    table = pq.read_table(pa.BufferReader(dataset.checked(record)))
    return table["domain"].to_pylist(), table["tokens"].to_numpy()
