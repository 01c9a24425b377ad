"""What a training worker iterates over: its rows of every global batch, step by step, streamed by Ray Data.

One long plan covers all epochs (a new plan costs seconds). Works in any process that is connected to Ray: read tasks
run on the cluster, a thread here keeps the next blocks at hand. Knows nothing about models or losses.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data

from mtp.data.prepared import PreparedDataset, open_dataset
from mtp.data.storage import Location
from mtp.data.stream.quiet import keep_order, quiet_context
from mtp.data.stream.row_source import RankSlice, RowSource, Stretch
from mtp.data.stream.task_errors import raise_problem
from mtp.errors import MTPError

if TYPE_CHECKING:
    import torch

READ_CPUS = 0.1
"""What one read task reserves: little, so that workers which hold the other CPUs are still fed."""

READ_TASKS = 1
"""Read tasks that a rank runs at once. One gives 10 M tokens/s; each more is a process to start (2-4 s of CPU)."""

AHEAD_BYTES = 64 << 20
"""Object-store bytes that one rank's stream may hold, whatever the size of the data set."""

Array = npt.NDArray[np.generic]
_Begun = tuple[pa.Table | None, Iterator[pa.Table]]


@dataclass(frozen=True)
class RowBatch:
    """One rank's rows of one global batch.

    Attributes:
        tokens: (b, T) int64.
        document: (b, T) int32, ordinal of the token's document in its row, -1 = padding.
        row_ids: (b,) int64, ids of the rows in the data set.
    """

    tokens: "torch.Tensor"
    document: "torch.Tensor"
    row_ids: "torch.Tensor"


class RowStream:
    """An iterable of `RowBatch`, one a step; `len(stream)` steps in all.

    Step i gives this rank's share of positions start_row + i*G .. start_row + (i+1)*G - 1 of the order that
    (fingerprint, seed) fixes, epoch after epoch without a seam. Resuming after step k is a new stream with start_row
    raised by k*G. Each iteration starts again at start_row.

    Example:
        >>> stream = RowStream("data/train", seed=0, part=RankSlice(16, rank, world), start_row=step * 16, steps=100)
        >>> stream.start()  # optional: reads while the model is built
        >>> for batch in stream:
        ...     loss = model(batch.tokens, batch.document)
    """

    def __init__(
        self, path: str | Path | PreparedDataset, *, seed: int, part: RankSlice, start_row: int = 0, steps: int
    ) -> None:
        """`path`: one split of a prepared data set, such as `data/train`.

        Raises:
            MTPError: the data set is missing or damaged (its shards are checked when they are first read).
        """
        dataset = path if isinstance(path, PreparedDataset) else open_dataset(path)
        self.part = part
        self.seq_len = dataset.manifest.seq_len
        self.start_row = start_row
        self._steps = steps
        self.dataset = train_dataset(
            dataset, seed=seed, start_row=start_row, num_rows=steps * part.global_batch, part=part
        )
        self._begun: Future[_Begun] | None = None

    def start(self) -> Self:
        """Begin reading in the background now, so that it is done by the time the model is built.

        The first plan of a process takes seconds. A failure to read is raised by the iteration, not here.
        """
        if self._begun is None:
            thread = ThreadPoolExecutor(1, thread_name_prefix="row-stream")
            self._begun = thread.submit(self._begin)
            thread.shutdown(wait=False)
        return self

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[RowBatch]:
        expected = self.start_row + self.part.rank * self.part.rows
        for columns in _regroup(self._blocks(), self.part.rows):
            tokens, document, row_ids, positions = columns
            if positions[0] != expected or positions[-1] != expected + self.part.rows - 1:
                raise MTPError(
                    f"the row stream gave positions {positions[0]} to {positions[-1]} where {expected} was due; "
                    f"nothing was trained on them; please report this"
                )
            expected += self.part.global_batch
            yield _batch(tokens, document, row_ids)

    def _begin(self) -> "_Begun":
        """The first block, and the iterator of those that follow."""
        tables = iter(self.dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
        return next(tables, None), tables

    def _blocks(self) -> Iterator[tuple[Array, ...]]:
        begun, self._begun = self._begun, None
        table, tables = begun.result() if begun else self._begin()
        while table is not None:
            for problem in table["problem"].unique().to_pylist():
                raise_problem(problem)
            yield _columns(table, self.seq_len)
            table = next(tables, None)


def train_dataset(
    path: str | Path | PreparedDataset, *, seed: int, start_row: int, num_rows: int, part: RankSlice | None = None
) -> ray.data.Dataset:
    """Rows at positions start_row .. start_row + num_rows - 1 of the training order, as a Ray Dataset.

    Columns: see `RowSource`. Blocks come in order. `part` keeps one rank's rows.
    """
    dataset = path if isinstance(path, PreparedDataset) else open_dataset(Location.of(path))
    quiet_context()
    stretch = Stretch(
        path=dataset.location.url,
        fingerprint=dataset.manifest.fingerprint,
        seed=seed,
        start=start_row,
        num_rows=num_rows,
        part=part or RankSlice(global_batch=1),
    )
    source = RowSource(stretch)
    rows = ray.data.read_datasource(
        source, override_num_blocks=len(source.spans), num_cpus=READ_CPUS, concurrency=READ_TASKS
    )
    return keep_order(rows, AHEAD_BYTES)


def _regroup(blocks: Iterator[tuple[Array, ...]], size: int) -> Iterator[tuple[Array, ...]]:
    """The same rows in tuples of exactly `size` rows, whatever the sizes of the blocks."""
    rest: tuple[Array, ...] | None = None
    for block in blocks:
        whole = block if rest is None else tuple(np.concatenate(pair) for pair in zip(rest, block, strict=True))
        stop = len(whole[0]) // size * size
        for start in range(0, stop, size):
            yield tuple(column[start : start + size] for column in whole)
        rest = tuple(column[stop:] for column in whole)


def _batch(tokens: Array, document: Array, row_ids: Array) -> RowBatch:
    import torch

    return RowBatch(
        torch.from_numpy(tokens.astype(np.int64)),
        torch.from_numpy(document.astype(np.int32)),
        torch.from_numpy(row_ids.astype(np.int64)),
    )


def _columns(table: pa.Table, seq_len: int) -> tuple[Array, ...]:
    return (
        _matrix(table["tokens"], seq_len),
        _matrix(table["document"], seq_len),
        table["row"].to_numpy(),
        table["position"].to_numpy(),
    )


def _matrix(column: pa.ChunkedArray, seq_len: int) -> Array:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, seq_len)
