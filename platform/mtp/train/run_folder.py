"""The folder of a run: what was asked for, whether it is done, and what came of it.

`run.json` is written when a run starts and again when it is finished, so that the same command started again knows
whether to go on, to say that there is nothing to do, or to refuse because something else is asked for. Checkpoints
and the final model lie beside it. Knows files on any pyarrow filesystem; knows nothing of Ray or tensors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow.fs as fs
from pydantic import BaseModel, ConfigDict, ValidationError

from mtp.config import Config, home
from mtp.errors import MTPError, UsageError
from mtp.train.manifest import checkpoints, write_file

RECORD = "run.json"
FIXED = (
    "model",
    "objective",
    "data.fingerprint",
    "data.seed",
    "train.seed",
    "train.batch_size",
    "train.steps",
    "train.minutes",
    "train.optimizer",
    "train.lr_schedule",
)
"""What a run may not change once it has a checkpoint: with another value it would be another run. Workers, ZeRO stage,
micro-batches, logging and checkpoints may change."""


class TrainResult(BaseModel):
    """What a finished run left behind."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    model_dir: str
    """The model folder: config.json, model.safetensors, tokenizer.json."""
    steps: int
    tokens: int
    skipped_steps: int
    seconds: float
    """Of the training loop of the last attempt."""
    metrics: dict[str, float]
    """The last values of train/... and eval/..."""


class Rollback(BaseModel):
    """The run went back to an earlier checkpoint, since too many steps in a row had moved nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    step: int
    """Steps done when that was decided."""
    to_step: int
    """Steps done in the checkpoint; 0 if there was none."""
    passed_over: tuple[int, ...]
    """The steps (from 0) whose batches are never trained on again."""


class RunRecord(BaseModel):
    """The content of run.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    status: Literal["running", "finished"]
    run_id: str
    fixed: dict[str, Any]
    """The values of FIXED."""
    result: TrainResult | None = None
    model_version: str | None = None
    """The registered version made of it, once there is one."""
    rollbacks: tuple[Rollback, ...] = ()

    @property
    def passed_over(self) -> set[int]:
        """The steps whose batches some roll-back left out."""
        return {step for rollback in self.rollbacks for step in rollback.passed_over}


@dataclass(frozen=True)
class RunFolder:
    """`storage_path`/`run_name` on its filesystem."""

    storage_path: str
    """As Ray Train wants it: a local path or a URL."""
    name: str
    filesystem: fs.FileSystem
    path: str
    """On `filesystem`."""

    @classmethod
    def of(cls, config: Config) -> Self:
        """The folder that the train section names; it need not be there."""
        storage = config.train.storage_path or str(home() / "runs")
        filesystem, root = fs.FileSystem.from_uri(storage) if "://" in storage else _local(storage)
        name = config.train.run_name
        return cls(storage if "://" in storage else root, name, filesystem, f"{root}/{name}")

    def record(self) -> RunRecord | None:
        """What run.json says; None if there is none.

        Raises:
            MTPError: it is there but damaged.
        """
        try:
            with self.filesystem.open_input_stream(f"{self.path}/{RECORD}") as stream:
                return RunRecord.model_validate_json(stream.read())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise MTPError(
                f"{self.path}/{RECORD} is damaged; remove the folder, or choose another train.run_name"
            ) from None

    def write(self, record: RunRecord) -> None:
        """Replace run.json as a whole."""
        self.filesystem.create_dir(self.path)
        partial = f"{self.path}/.{RECORD}.partial"
        write_file(self.filesystem, partial, record.model_dump_json(indent=1).encode())
        self.filesystem.move(partial, f"{self.path}/{RECORD}")

    def begin(self, run_id: str, fixed: dict[str, Any]) -> TrainResult | None:
        """Open the run for training, new or again; its result if it is finished already.

        Raises:
            UsageError: a run of this name was started with other FIXED values.
        """
        earlier = self.record()
        if earlier is not None and (earlier.status == "finished" or checkpoints(self.filesystem, self.path)):
            self._refuse_changes(earlier.fixed, fixed)
            if earlier.status == "finished":
                return earlier.result
        rollbacks = earlier.rollbacks if earlier is not None and earlier.fixed == fixed else ()
        self.write(RunRecord(status="running", run_id=run_id, fixed=fixed, rollbacks=rollbacks))
        return None

    def finish(self, result: TrainResult) -> None:
        """Mark the run as finished."""
        self._update(status="finished", result=result)

    def roll_back(self, rollback: Rollback) -> None:
        """Write down what the next attempt leaves out, before there is one."""
        self._update(rollbacks=(*self.require_record().rollbacks, rollback))

    def remember_version(self, version: str) -> None:
        """Note the registered version, so that the same job started again makes no second one."""
        self._update(model_version=version)

    def local_model(self, result: TrainResult) -> Path:
        """The finished model's folder on this machine, fetched if the run lies elsewhere."""
        if isinstance(self.filesystem, fs.LocalFileSystem):
            return Path(result.model_dir)
        local = home() / "fetched" / self.name
        local.mkdir(parents=True, exist_ok=True)
        fs.copy_files(f"{self.path}/model", str(local), self.filesystem, fs.LocalFileSystem())
        return local

    def require_record(self) -> RunRecord:
        """What run.json says, in a run that has begun.

        Raises:
            MTPError: it is gone or damaged.
        """
        record = self.record()
        if record is None:
            raise MTPError(f"{self.path}/{RECORD} vanished while the run was going on; its checkpoints are still there")
        return record

    def _update(self, **changes: Any) -> None:
        self.write(self.require_record().model_copy(update=changes))

    def _refuse_changes(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [key for key in FIXED if before.get(key) != now.get(key)]
        if changed:
            key = changed[0]
            raise UsageError(
                f"run {self.name!r} in {self.storage_path} was started with another "
                f"{_first_difference(key, before.get(key), now[key])}; "
                f"choose another train.run_name, or remove the folder to start anew"
            )


def fixed_values(config: Config, fingerprint: str) -> dict[str, Any]:
    """The values of FIXED as plain JSON."""
    tree = config.model_dump(mode="json")
    tree["data"]["fingerprint"] = fingerprint
    values = {}
    for key in FIXED:
        value: Any = tree
        for part in key.split("."):
            value = value[part]
        values[key] = value
    return values


def _first_difference(key: str, before: Any, now: Any) -> str:
    """The first differing key below `key`, with both values: `model.hidden_size (64, now 128)`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now:
            if before.get(name) != now[name]:
                return _first_difference(f"{key}.{name}", before.get(name), now[name])
    return f"{key} ({_short(before)}, now {_short(now)})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def _local(path: str) -> tuple[fs.FileSystem, str]:
    return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())
