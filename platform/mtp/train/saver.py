"""Writes checkpoints: every rank its file, then the manifest, then the word to Ray Train, in that order.

Files go straight into the run's folder on whatever filesystem it lies. The manifest is written when the files of all
ranks are whole; only then is the checkpoint reported, and only then does Ray Train drop the oldest. If a rank cannot
write (a full disk), the folder is removed, the earlier checkpoints stay, and training goes on.
"""

import time

import ray.train
from pyarrow.fs import FileSystem
from ray.train.v2.api.report_config import CheckpointUploadMode
from safetensors.torch import save

from mtp.config import ModelConfig
from mtp.train.collective import from_rank_zero, gathered
from mtp.train.engine import Engine
from mtp.train.manifest import MANIFEST, FileRecord, Manifest, TrainerState, checkpoint_name, write_file
from mtp.train.state import collect, shard_name


class CheckpointSaver:
    """One rank's part in saving; all ranks call `save` at the same step."""

    def __init__(self, engine: Engine, rank: int, model: ModelConfig, filesystem: FileSystem, run_folder: str) -> None:
        self._engine = engine
        self._rank = rank
        self._model = model
        self._filesystem = filesystem
        self._run_folder = run_folder

    def save(self, state: TrainerState, metrics: dict[str, float]) -> str:
        """Write and report a checkpoint; its folder's name.

        Raises:
            OSError: a rank could not write; nothing of this checkpoint is left, and the earlier ones are.
        """
        name = from_rank_zero(checkpoint_name(state.step, int(time.time())))
        folder = f"{self._run_folder}/{name}"
        records = self._write_shards(folder)
        self._write_manifest(folder, Manifest(state=state, model=self._model.model_dump(mode="json"), files=records))
        checkpoint = ray.train.Checkpoint(path=folder, filesystem=self._filesystem)
        ray.train.report(
            {"step": state.step, **metrics},
            checkpoint=checkpoint,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )
        return name

    def _write_shards(self, folder: str) -> dict[str, FileRecord]:
        """Every rank's file; the records of all."""
        share = collect(self._engine, self._rank)
        name = shard_name(self._rank)
        problem, record = "", None
        try:
            self._filesystem.create_dir(folder)
            record = write_file(self._filesystem, f"{folder}/{name}", save(share))
        except OSError as error:
            problem = f"rank {self._rank} could not write {folder}/{name}: {error.strerror or error}"
        answers = gathered((name, record, problem))
        self._give_up_on(folder, [why for _, _, why in answers if why])
        return {file: written for file, written, _ in answers if written is not None}

    def _write_manifest(self, folder: str, manifest: Manifest) -> None:
        problem = ""
        if self._rank == 0:
            try:
                write_file(self._filesystem, f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())
            except OSError as error:
                problem = f"rank 0 could not write {folder}/{MANIFEST}: {error.strerror or error}"
        self._give_up_on(folder, [why for why in gathered(problem) if why])

    def _give_up_on(self, folder: str, problems: list[str]) -> None:
        """Remove a checkpoint that some rank could not write, and tell every rank."""
        if not problems:
            return
        if self._rank == 0:
            self._filesystem.delete_dir(folder)
        raise OSError("; ".join(problems))
