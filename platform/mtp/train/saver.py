"""Writes checkpoints beside the training: the step waits for a copy of the tensors, a thread does the rest.

In the thread every rank writes its file straight into the run's folder on whatever filesystem it lies, then rank 0
writes the manifest, and only then the checkpoint counts and older ones may go. If a rank cannot write (a full disk),
what there is of the new checkpoint is removed, the earlier ones stay, and training goes on. The next save waits for
the one before.
"""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from pyarrow.fs import FileSystem, FileType
from safetensors.torch import save
from torch import Tensor

from mtp.config import ModelConfig
from mtp.config.train import TrainConfig
from mtp.train.collective import from_rank_zero, gathered
from mtp.train.engine import Engine
from mtp.train.events import Notice, Saved, TrainEvent
from mtp.train.manifest import MANIFEST, FileRecord, Manifest, TrainerState, checkpoint_name, newest_stamp, write_file
from mtp.train.retention import drop_superseded
from mtp.train.state import collect, shard_name

_LONGEST_UPLOAD = timedelta(days=1)


class CheckpointSaver:
    """One rank's part in saving; all ranks call `save` and `wait` at the same steps."""

    def __init__(
        self,
        engine: Engine,
        rank: int,
        model: ModelConfig,
        train: TrainConfig,
        filesystem: FileSystem,
        run_folder: str,
        tell: Callable[[TrainEvent], None],
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        """`tell` hears of each checkpoint, saved or not; `settle` is called on rank 0 before one counts, so that
        what the run has logged up to its step is safe too."""
        self._engine = engine
        self._rank = rank
        self._model = model
        self._config = train.checkpoint
        self._filesystem = filesystem
        self._run_folder = run_folder
        self._tell = tell
        self._settle = settle
        self._stamp = newest_stamp(filesystem, run_folder) if rank == 0 else 0
        # The thread's exchanges must not mix with those of the steps: a group of its own, where there are others.
        # It may wait long for a slow upload; a rank that hangs is found by the steps.
        alone = dist.get_world_size() == 1
        self._group = None if alone else dist.new_group(backend="gloo", timeout=_LONGEST_UPLOAD)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, state: TrainerState, metrics: dict[str, float]) -> None:
        """Copy the training state of this step, and write it in the background.

        `metrics`: of the held-out rows at this step, if they were measured.
        """
        self.wait()
        self._stamp = max(int(time.time()), self._stamp + 1)  # later than all before it, wherever the clock was set
        name = from_rank_zero(checkpoint_name(state.step, self._stamp))
        share = collect(self._engine, self._rank)
        manifest = Manifest(state=state, model=self._model.model_dump(mode="json"), metrics=metrics, files={})
        self._thread = threading.Thread(
            target=self._write, args=(name, share, manifest), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until the last checkpoint is written, or has failed.

        Raises:
            BaseException: what ended the thread, other than a disk that takes no more: another rank has gone.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            raise self._failure

    def _write(self, name: str, share: dict[str, Tensor], manifest: Manifest) -> None:
        """The thread."""
        folder = f"{self._run_folder}/{name}"
        try:
            files = self._write_shards(folder, share)
            self._write_manifest(folder, manifest.model_copy(update={"files": files}))
        except OSError as error:
            what = f"the checkpoint after step {manifest.state.step} was not saved: {error}"
            self._tell(Notice(f"{what}; the earlier ones stay, and training goes on"))
        except BaseException as error:
            self._failure = error
        else:
            self._tell(Saved(manifest.state.step, name))
            self._drop_superseded()

    def _write_shards(self, folder: str, share: dict[str, Tensor]) -> dict[str, FileRecord]:
        """Every rank's file; the records of all."""
        name = shard_name(self._rank)
        problem, record = "", None
        try:
            self._filesystem.create_dir(folder)
            record = write_file(self._filesystem, f"{folder}/{name}", save(share))
        except OSError as error:
            problem = f"rank {self._rank} could not write {folder}/{name}: {_reason(error)}"
        answers = gathered((name, record, problem), self._group)
        self._give_up_on(folder, [why for _, _, why in answers if why])
        return {file: written for file, written, _ in answers if written is not None}

    def _write_manifest(self, folder: str, manifest: Manifest) -> None:
        problem = ""
        if self._rank == 0:
            self._settle()
            try:
                write_file(self._filesystem, f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())
            except OSError as error:
                problem = f"rank 0 could not write {folder}/{MANIFEST}: {_reason(error)}"
        self._give_up_on(folder, [why for why in gathered(problem, self._group) if why])

    def _give_up_on(self, folder: str, problems: list[str]) -> None:
        """Remove a checkpoint that some rank could not write, and tell every rank."""
        if not problems:
            return
        if self._rank == 0 and self._filesystem.get_file_info(folder).type == FileType.Directory:
            self._filesystem.delete_dir(folder)
        raise OSError("; ".join(problems))

    def _drop_superseded(self) -> None:
        if self._rank != 0:
            return
        try:
            drop_superseded(self._filesystem, self._run_folder, self._config)
        except OSError as error:
            self._tell(Notice(f"an old checkpoint in {self._run_folder} could not be removed: {_reason(error)}"))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
