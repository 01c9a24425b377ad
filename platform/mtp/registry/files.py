"""A model folder's files: which belong in it, which never do, and their checksums.

Knows names and bytes; what is inside `config.json` and `model.safetensors` is mtp.checkpoint's business.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from mtp.errors import MTPError, UsageError

REQUIRED = ("config.json", "model.safetensors", "tokenizer.json")
_CODE = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".py"}
"""Endings of files that run code when they are loaded the usual way."""


def require_model_folder(folder: Path) -> None:
    """Check that `folder` holds a model and nothing that could run code.

    Raises:
        UsageError: it is no folder, a file is missing, or a pickle (or code) lies in it.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no model folder {folder}; give a folder that holds {', '.join(REQUIRED)}")
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{folder} is no model folder: {', '.join(missing)} missing")
    unsafe = sorted(path.name for path in folder.rglob("*") if path.suffix in _CODE)
    if unsafe:
        raise UsageError(f"{folder} holds {', '.join(unsafe)}, which could run code when loaded; remove it")


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`, by its relative path."""
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def require_intact(folder: Path, expected: Mapping[str, str], what: str) -> None:
    """Compare the files below `folder` with their checksums; `what` names the model in the error.

    Raises:
        MTPError: a file is missing or differs.
    """
    for name, checksum in expected.items():
        path = folder / name
        if not path.is_file():
            raise MTPError(f"{what} is incomplete: {name} is missing from the registry; register it again")
        if _sha256(path) != checksum:
            raise MTPError(f"{what} is damaged: {name} does not have the checksum it was registered with")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
