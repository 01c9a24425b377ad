"""What a training worker iterates over: its rows of every global batch, step by step, streamed by Ray Data.

One long plan covers all epochs (a new plan costs seconds). Works in any process that is connected to Ray: read tasks
run on the cluster, a thread here keeps the next blocks at hand. Knows nothing about models or losses.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pyarrow as pa
import ray.data

from mtp.data.prepared import PreparedDataset
from mtp.data.stream.quiet import keep_order, quiet_context
from mtp.data.stream.row_batch import Columns, RowBatch, columns_of, regroup
from mtp.data.stream.row_source import RankSlice, RowSource, Stretch
from mtp.data.stream.task_errors import raise_problem
from mtp.data.training_data import TrainingData, plain
from mtp.errors import MTPError

READ_CPUS = 0.1
"""What one read task reserves: little, so that workers which hold the other CPUs are still fed."""

READ_TASKS = 1
"""Read tasks that a rank runs at once. One gives 10 M tokens/s; each more is a process to start (2-4 s of CPU)."""

AHEAD_BYTES = 64 << 20
"""Object-store bytes that one rank's stream may hold, whatever the size of the data set."""

_Begun = tuple[pa.Table | None, Iterator[pa.Table]]


class RowStream:
    """An iterable of `RowBatch`, one a step; `len(stream)` steps in all.

    Step i gives this rank's share of positions start_row + i*G .. start_row + (i+1)*G - 1 of the order that
    (fingerprint, seed) fixes, epoch after epoch without a seam. Resuming after step k is a new stream with start_row
    raised by k*G. Each iteration starts again at start_row.

    With `skip_bad_shards` the rows of a shard that cannot be read are padding, in their places: no other row moves.
    `leave_out` does the same to shards that another rank could not read.

    Example:
        >>> stream = RowStream("data/train", seed=0, part=RankSlice(16, rank, world), start_row=step * 16, steps=100)
        >>> stream.start()  # optional: reads while the model is built
        >>> for batch in stream:
        ...     loss = model(batch.tokens, batch.document)
    """

    def __init__(
        self,
        data: str | Path | PreparedDataset | TrainingData,
        *,
        seed: int,
        part: RankSlice,
        start_row: int = 0,
        steps: int,
        skip_bad_shards: bool = False,
        left_out: Iterable[str] = (),
    ) -> None:
        """`data`: one split of a prepared data set, such as `data/train`, or a mixture; `left_out`: URLs of shards.

        Raises:
            MTPError: the data set is missing or damaged (its shards are checked when they are first read).
        """
        self.data = data if isinstance(data, TrainingData) else plain(data)
        self.part = part
        self.start_row = start_row
        self._steps = steps
        self._left_out = set(left_out)
        self.dataset = train_dataset(
            self.data,
            seed=seed,
            start_row=start_row,
            num_rows=steps * part.global_batch,
            part=part,
            skip_bad_shards=skip_bad_shards,
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

    def leave_out(self, shards: Iterable[str]) -> None:
        """Rows of these shards (by URL) are padding from the next batch on, wherever they could be read."""
        self._left_out.update(shards)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[RowBatch]:
        expected = self.start_row + self.part.rank * self.part.rows
        for columns in regroup(self._blocks(), self.part.rows):
            positions = columns.position
            if positions[0] != expected or positions[-1] != expected + self.part.rows - 1:
                raise MTPError(
                    f"the row stream gave positions {positions[0]} to {positions[-1]} where {expected} was due; "
                    f"nothing was trained on them; please report this"
                )
            expected += self.part.global_batch
            yield columns.batch(self.data, self._left_out)

    def _begin(self) -> _Begun:
        """The first block, and the iterator of those that follow."""
        tables = iter(self.dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
        return next(tables, None), tables

    def _blocks(self) -> Iterator[Columns]:
        begun, self._begun = self._begun, None
        table, tables = begun.result() if begun else self._begin()
        while table is not None:
            if "tokens" not in table.column_names:
                raise_problem(table["problem"][0].as_py())
            yield columns_of(table, self.data.seq_len)
            table = next(tables, None)


def train_dataset(
    data: str | Path | PreparedDataset | TrainingData,
    *,
    seed: int,
    start_row: int,
    num_rows: int,
    part: RankSlice | None = None,
    skip_bad_shards: bool = False,
) -> ray.data.Dataset:
    """Rows at positions start_row .. start_row + num_rows - 1 of the training order, as a Ray Dataset.

    Columns: see `RowSource`. Blocks come in order. `part` keeps one rank's rows.
    """
    quiet_context()
    stretch = Stretch.of(
        data if isinstance(data, TrainingData) else plain(data),
        seed=seed,
        start=start_row,
        num_rows=num_rows,
        part=part or RankSlice(global_batch=1),
        skip_bad_shards=skip_bad_shards,
    )
    source = RowSource(stretch)
    rows = ray.data.read_datasource(
        source, override_num_blocks=len(source.spans), num_cpus=READ_CPUS, concurrency=READ_TASKS
    )
    return keep_order(rows, AHEAD_BYTES)
