"""From the blocks of the row stream to batches of exactly one step: regrouping, and rows that are left out.

Knows columns and arrays; knows nothing of where blocks come from.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtp.data.packing import PADDING
from mtp.data.stream.task_errors import sentence_of
from mtp.data.training_data import TrainingData

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class RowBatch:
    """One rank's rows of one global batch.

    Attributes:
        tokens: (b, T) int64.
        document: (b, T) int32, ordinal of the token's document in its row, -1 = padding.
        sources: (b,) int64, the data set of each row: its place in the mixture, 0 where there is none.
        row_ids: (b,) int64, ids of the rows in their data sets.
        bad_shards: URL of every shard that rows of this batch should have come from but could not be read, with a
            sentence that says why. Such rows are padding.
        left_out: URLs of all shards whose rows are padding from the next batch on.
    """

    tokens: "torch.Tensor"
    document: "torch.Tensor"
    sources: "torch.Tensor"
    row_ids: "torch.Tensor"
    bad_shards: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """Rows as arrays: tokens and document (n, T), the others (n,)."""

    tokens: Array
    document: Array
    source: Array
    row: Array
    position: Array
    shard: Array
    problem: Array

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: slice) -> "Columns":
        return Columns(*(column[rows] for column in self._all()))

    def followed_by(self, other: "Columns") -> "Columns":
        """These rows, then the other's."""
        return Columns(*(np.concatenate(pair) for pair in zip(self._all(), other._all(), strict=True)))

    def batch(self, data: TrainingData, left_out: Set[str]) -> RowBatch:
        """As tensors; rows of `data`'s shards `left_out` become padding."""
        import torch

        tokens = torch.from_numpy(self.tokens.astype(np.int64))
        document = torch.from_numpy(self.document.astype(np.int32))
        if left_out:
            shards = [data.shard_url(int(s), int(row)) for s, row in zip(self.source, self.row, strict=True)]
            gone = torch.tensor([shard in left_out for shard in shards])
            tokens[gone], document[gone] = data.tokenizer.eos_id, PADDING
        return RowBatch(
            tokens,
            document,
            torch.from_numpy(self.source.astype(np.int64)),
            torch.from_numpy(self.row.astype(np.int64)),
            {str(shard): sentence_of(str(why)) for shard, why in zip(self.shard, self.problem, strict=True) if shard},
            tuple(sorted(left_out)),
        )

    def _all(self) -> list[Array]:
        return [getattr(self, column.name) for column in fields(self)]


def columns_of(table: pa.Table, seq_len: int) -> Columns:
    """The arrays of a block of `RowSource`."""
    return Columns(
        _matrix(table["tokens"], seq_len),
        _matrix(table["document"], seq_len),
        *(table[column].to_numpy() for column in ("source", "row", "position", "shard", "problem")),
    )


def regroup(blocks: Iterator[Columns], size: int) -> Iterator[Columns]:
    """The same rows in groups of exactly `size`, whatever the sizes of the blocks."""
    rest: Columns | None = None
    for block in blocks:
        whole = block if rest is None else rest.followed_by(block)
        stop = len(whole) // size * size
        for start in range(0, stop, size):
            yield whole[start : start + size]
        rest = whole[stop:]


def _matrix(column: pa.ChunkedArray, seq_len: int) -> Array:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, seq_len)
