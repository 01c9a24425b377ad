"""Training rows in their order, as a Ray Data source that one rank reads its share of.

A read task covers a few windows of the order (mtp.data.order, mtp.data.mixture) and reads only the row groups that
hold this rank's rows. Tasks carry paths and numbers; each worker process opens the data sets once. Knows nothing about
tensors.
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

from mtp.data.mixture import Order
from mtp.data.prepared import open_dataset
from mtp.data.shards import BadShardError
from mtp.data.stream.task_errors import NO_PROBLEM, problem_text
from mtp.data.training_data import TrainingData
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
    """What identifies a stream: data sets, their order, and positions [start, start + num_rows) for one rank."""

    paths: tuple[str, ...]
    weights: tuple[float, ...]
    fingerprint: str
    seed: int
    start: int
    num_rows: int
    part: RankSlice
    skip_bad_shards: bool = False

    @classmethod
    def of(
        cls,
        data: TrainingData,
        *,
        seed: int,
        start: int,
        num_rows: int,
        part: RankSlice,
        skip_bad_shards: bool = False,
    ) -> "Stretch":
        """Positions [start, start + num_rows) of `data`."""
        paths = tuple(source.location.url for source in data.sources)
        return cls(paths, data.weights, data.fingerprint, seed, start, num_rows, part, skip_bad_shards)


class RowSource(Datasource):
    """The rows of a `Stretch`.

    Columns: tokens, document, source, row (id in the source), position (in the order), shard and problem (both empty
    but for rows of a bad shard, which are padding: its URL, and what is wrong with it).
    """

    def __init__(self, stretch: Stretch) -> None:
        super().__init__()
        self.stretch = stretch
        self._data, self._order = _opened(stretch.paths, stretch.weights, stretch.fingerprint, stretch.seed)
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
        manifest = self._data.sources[0].manifest
        return manifest.seq_len * (np.dtype(manifest.dtype).itemsize + 4) + 16

    def _cut_into_spans(self) -> list[tuple[int, int]]:
        """[start, stop) of each task: whole windows, more of them for more ranks, so that a task is worth its start."""
        first, last = self.stretch.start, self.stretch.start + self.stretch.num_rows
        edges = self._order.edges(first, last)
        step = max(min(self.stretch.part.world, _WINDOWS_PER_TASK), -(-len(edges) // MAX_TASKS))
        starts = [max(first, edge) for edge in edges[::step]]
        return list(zip(starts, [*starts[1:], last], strict=True))


def read_span(stretch: Stretch, start: int, stop: int) -> Iterable[pa.Table]:
    """The blocks of one read task: this rank's rows of positions [start, stop).

    Where a shard is missing or corrupt and is not to be skipped, or a data set was replaced since the stream was made,
    the block is a single row that says so in its column `problem`.
    """
    try:
        data, order = _opened(stretch.paths, stretch.weights, stretch.fingerprint, stretch.seed)
        positions = stretch.part.positions(stretch.start, start, stop)
        sources, rows = (column[positions - start] for column in order.places(start, stop))
        problems = Problems(data, sources, rows)
        tokens, document = data.take(sources, rows, problems.note if stretch.skip_bad_shards else None)
    except MTPError as error:
        yield pa.table({"problem": [problem_text(error)]})
        return
    yield pa.table(
        {
            "tokens": _fixed_lists(tokens),
            "document": _fixed_lists(document),
            "source": pa.array(sources),
            "row": pa.array(rows),
            "position": pa.array(positions),
            "shard": pa.array(problems.shards),
            "problem": pa.array(problems.texts),
        }
    )


class Problems:
    """Which rows of a block belong to bad shards: `shards` and `texts`, one a row, empty for good rows."""

    def __init__(self, data: TrainingData, sources: Ints, rows: Ints) -> None:
        self._data, self._sources, self._rows = data, sources, rows
        self.shards = [""] * len(rows)
        self.texts = [NO_PROBLEM] * len(rows)

    def note(self, error: BadShardError, places: Ints) -> None:
        """Rows `places` could not be read."""
        shard = self._data.shard_url(int(self._sources[places[0]]), int(self._rows[places[0]]))
        for place in places:
            self.shards[place], self.texts[place] = shard, problem_text(error)


@lru_cache(maxsize=8)
def _opened(
    paths: tuple[str, ...], weights: tuple[float, ...], fingerprint: str, seed: int
) -> tuple[TrainingData, Order]:
    data = TrainingData(tuple(open_dataset(path) for path in paths), weights)
    if data.fingerprint != fingerprint:
        raise MTPError(
            f"the data set {' + '.join(paths)} has fingerprint {data.fingerprint[:12]}..., but the stream was made for "
            f"{fingerprint[:12]}...: it was prepared again in the meantime; start training anew"
        )
    return data, data.order(seed)


def _fixed_lists(matrix: npt.NDArray[np.generic]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
