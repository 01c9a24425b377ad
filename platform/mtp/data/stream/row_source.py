"""Rows of a prepared data set in training order, as a Ray Data source that one rank reads its share of.

A read task covers a few windows of the order (mtp.data.order) and reads only the row groups that hold this rank's
rows. Tasks carry a path and numbers; each worker process opens the data set once. Knows nothing about tensors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from mtp.data.order import RowOrder
from mtp.data.prepared import PreparedDataset, open_dataset
from mtp.data.stream.task_errors import NO_PROBLEM, problem_text
from mtp.errors import MTPError, UsageError

MAX_TASKS = 10_000
_WINDOWS_PER_TASK = 32

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RankSlice:
    """Which rows of every global batch a rank takes: `global_batch / world` of them, the rank-th share.

    Step s of a stream that starts at position p consumes positions p + s*G .. p + (s+1)*G - 1 of the order, whatever
    the number of ranks; rank r takes the r-th of `world` equal runs of them.
    """

    global_batch: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank {self.rank} is not one of {self.world} ranks")
        if self.global_batch < 1 or self.global_batch % self.world:
            raise UsageError(
                f"a global batch of {self.global_batch} rows does not divide over {self.world} workers; "
                f"change train.batch_size or train.num_workers"
            )

    @property
    def rows(self) -> int:
        """Rows of a global batch that this rank takes."""
        return self.global_batch // self.world

    def positions(self, origin: int, start: int, stop: int) -> Ints:
        """This rank's positions among [start, stop) of a stream that starts at `origin`, ascending."""
        every = np.arange(start, stop)
        return every[(every - origin) % self.global_batch // self.rows == self.rank]


@dataclass(frozen=True)
class Stretch:
    """What identifies a stream: a data set, its order, and positions [start, start + num_rows) for one rank."""

    path: str
    fingerprint: str
    seed: int
    start: int
    num_rows: int
    part: RankSlice


class RowSource(Datasource):
    """The rows of a `Stretch`; columns tokens, document, row (id in the data set), position (in the order), problem."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__()
        self.stretch = stretch
        self._dataset, self._order = _opened(stretch.path, stretch.fingerprint, stretch.seed)
        self.spans = self._cut_into_spans()

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all blocks."""
        return self.stretch.num_rows // self.stretch.part.world * self._row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One task a span; `parallelism` is Ray's wish, the spans are ours."""
        return [self._task(start, stop) for start, stop in self.spans]

    def _task(self, start: int, stop: int) -> ReadTask:
        rows = (stop - start) // self.stretch.part.world
        metadata = BlockMetadata(num_rows=None, size_bytes=rows * self._row_bytes, exec_stats=None)
        return ReadTask(partial(read_span, self.stretch, start, stop), metadata)

    @property
    def _row_bytes(self) -> int:
        manifest = self._dataset.manifest
        return manifest.seq_len * (np.dtype(manifest.dtype).itemsize + 4) + 16

    def _cut_into_spans(self) -> list[tuple[int, int]]:
        """[start, stop) of each task: whole windows, more of them for more ranks, so that a task is worth its start."""
        first, last = self.stretch.start, self.stretch.start + self.stretch.num_rows
        edges = [window.start for window in self._order.windows(first, last)]
        step = max(min(self.stretch.part.world, _WINDOWS_PER_TASK), -(-len(edges) // MAX_TASKS))
        starts = [max(first, edge) for edge in edges[::step]]
        return list(zip(starts, [*starts[1:], last], strict=True))


def read_span(stretch: Stretch, start: int, stop: int) -> Iterable[pa.Table]:
    """The blocks of one read task: this rank's rows of positions [start, stop).

    Where a shard is missing or corrupt, or the data set was replaced since the stream was made, the block is a single
    row that says so in its column `problem`.
    """
    try:
        dataset, order = _opened(stretch.path, stretch.fingerprint, stretch.seed)
        positions = stretch.part.positions(stretch.start, start, stop)
        rows = order.rows(start, stop)[positions - start]
        tokens, document = dataset.take(rows)
    except MTPError as error:
        yield pa.table({"problem": [problem_text(error)]})
        return
    yield pa.table(
        {
            "tokens": _fixed_lists(tokens),
            "document": _fixed_lists(document),
            "row": pa.array(rows),
            "position": pa.array(positions),
            "problem": pa.array([NO_PROBLEM] * len(rows)),
        }
    )


@lru_cache(maxsize=8)
def _opened(path: str, fingerprint: str, seed: int) -> tuple[PreparedDataset, RowOrder]:
    dataset = open_dataset(path)
    manifest = dataset.manifest
    if manifest.fingerprint != fingerprint:
        raise MTPError(
            f"the data set {path} has fingerprint {manifest.fingerprint[:12]}..., but the stream was made for "
            f"{fingerprint[:12]}...: it was prepared again in the meantime; start training anew"
        )
    return dataset, RowOrder(manifest.group_sizes(), fingerprint, seed)


def _fixed_lists(matrix: npt.NDArray[np.generic]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
