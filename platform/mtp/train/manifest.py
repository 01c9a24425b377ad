"""Which checkpoints of a run can be trusted: a manifest of every file's size and sha256, and the newest whole one.

A checkpoint is a folder `step-<step>-<stamp>` in the run's folder: one `state-<rank>.safetensors` a rank, and
`manifest.json`, written when all the others are whole. It counts only if every file that the manifest lists is there
with its sha256, whatever happened to it since. Knows files on any pyarrow filesystem; knows nothing of tensors,
workers or DeepSpeed.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pyarrow.fs as fs
from pydantic import BaseModel, ConfigDict, ValidationError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_NAME = re.compile(r"^step-(\d{9})-(\d+)$")


class FileRecord(BaseModel):
    """Size in bytes and sha256 of one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: int
    sha256: str


class TrainerState(BaseModel):
    """Everything but tensors that a run needs to go on as if it had never stopped."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    step: int
    """Steps done, skipped ones included; the next one has this number."""
    applied_steps: int
    """Steps that moved the weights: Adam's own count."""
    total_steps: int
    rows: int
    """Position in the global order: the rows of every step done, trained on or passed over."""
    tokens: int
    """Tokens seen, padding excluded."""
    run_id: str
    data_fingerprint: str
    global_batch: int
    seed: int
    world: int
    zero_stage: int
    bad_shards: tuple[str, ...] = ()
    """URLs of the shards whose rows are left out from here on."""
    passed_over: tuple[int, ...] = ()
    """Steps whose batch no roll-back lets in again (numbers from 0: step s has rows s*G to (s+1)*G)."""
    recent_losses: tuple[float, ...] = ()
    """What the next loss is compared with to tell a spike."""


class Manifest(BaseModel):
    """The content of manifest.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int = FORMAT_VERSION
    state: TrainerState
    model: dict[str, Any]
    """The model section of the configuration."""
    metrics: dict[str, float] = {}
    """Of the held-out rows, if they were measured at this step."""
    files: dict[str, FileRecord]


def checkpoint_name(step: int, stamp: int) -> str:
    """The folder of a checkpoint after `step` steps; of two tries at a step, the one with the greater stamp counts.

    A stamp is the time in seconds, or one more than `newest_stamp`, where that is later.
    """
    return f"step-{step:09d}-{stamp}"


def step_of(name: str) -> int | None:
    """The step in a checkpoint folder's name; None for any other folder."""
    numbers = _numbers(name)
    return numbers[0] if numbers else None


def write_file(filesystem: fs.FileSystem, path: str, content: bytes) -> FileRecord:
    """Write a file and, on a local disk, force it down there; its size and sha256.

    Raises:
        OSError: it could not be written whole.
    """
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)
    if isinstance(filesystem, fs.LocalFileSystem):
        with Path(path).open("rb") as written:
            os.fsync(written.fileno())
    return FileRecord(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def checkpoints(filesystem: fs.FileSystem, run_folder: str) -> list[str]:
    """Names of the run's checkpoint folders, newest first, whole or not."""
    listing = filesystem.get_file_info(fs.FileSelector(run_folder, allow_not_found=True))
    names = [entry.base_name for entry in listing if entry.type == fs.FileType.Directory]
    found = {name: numbers for name in names if (numbers := _numbers(name))}
    return sorted(found, key=found.__getitem__, reverse=True)


def newest_stamp(filesystem: fs.FileSystem, run_folder: str) -> int:
    """The greatest stamp of the run's checkpoints, of whatever step; 0 without one."""
    names = checkpoints(filesystem, run_folder)
    return max((numbers[1] for name in names if (numbers := _numbers(name))), default=0)


def newest_whole(filesystem: fs.FileSystem, run_folder: str) -> tuple[str, Manifest] | None:
    """Name and manifest of the newest checkpoint whose every file is as the manifest says; None: there is none."""
    for name in checkpoints(filesystem, run_folder):
        manifest = read_manifest(filesystem, f"{run_folder}/{name}")
        if manifest and all(
            _matches(filesystem, f"{run_folder}/{name}/{file}", record) for file, record in manifest.files.items()
        ):
            return name, manifest
    return None


def read_manifest(filesystem: fs.FileSystem, folder: str) -> Manifest | None:
    """The manifest of a checkpoint folder; None if it is absent, torn, or of another format version."""
    try:
        with filesystem.open_input_stream(f"{folder}/{MANIFEST}") as stream:
            manifest = Manifest.model_validate_json(stream.read())
    except (FileNotFoundError, ValidationError):
        return None
    return manifest if manifest.version == FORMAT_VERSION else None


def _numbers(name: str) -> tuple[int, int] | None:
    """Step and stamp in the name of a checkpoint's folder; None for any other folder."""
    match = _NAME.match(name)
    return (int(match.group(1)), int(match.group(2))) if match else None


def _matches(filesystem: fs.FileSystem, path: str, record: FileRecord) -> bool:
    """Whether the file is there with the recorded size and sha256."""
    info = filesystem.get_file_info(path)
    if info.type != fs.FileType.File or info.size != record.bytes:
        return False
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest() == record.sha256
