"""The rows that one rank still has to train on, a batch a step, read in the background from its first call on.

Knows the row stream and what to do about shards that cannot be read; knows nothing of steps.
"""

import itertools
from collections.abc import Callable, Iterator

import torch

from mtp.config import DataConfig
from mtp.data import TrainingData
from mtp.data.stream.row_batch import RowBatch
from mtp.data.stream.row_source import RankSlice
from mtp.data.stream.row_stream import RowStream
from mtp.train.bad_shards import agreeing_on_bad_shards
from mtp.train.manifest import TrainerState


class Feed:
    """One rank's rows of the steps from `state` to its total."""

    def __init__(self, config: DataConfig, data: TrainingData, state: TrainerState, part: RankSlice) -> None:
        self._config = config
        self._state = state
        self._stream: RowStream | None = None
        if left := state.total_steps - state.step:
            self._stream = RowStream(
                data,
                seed=config.seed,
                part=part,
                start_row=state.rows,
                steps=left,
                skip_bad_shards=config.on_bad_shard == "skip",
                left_out=state.bad_shards,
            ).start()

    def batches(self, tell: Callable[[str], None], device: torch.device) -> Iterator[RowBatch]:
        """The batches, when the first of them is there: waiting for it is starting up, not training.

        `tell` takes a sentence about each shard that is left out. Collective where shards may be left out.
        """
        if self._stream is None:
            return iter(())
        batches = iter(self._stream)
        if self._config.on_bad_shard == "skip":
            limit = self._config.max_bad_shards
            batches = agreeing_on_bad_shards(self._stream, self._state.bad_shards, limit, tell, device)
        return itertools.chain([next(batches)], batches)
