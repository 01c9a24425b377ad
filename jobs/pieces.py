"""Outcomes of the pieces of a long job, kept in a folder so that an interrupted job goes on where it was.

One JSON file a piece, written whole or not at all. Knows names and pydantic models; knows nothing of what a piece is.
"""

import os
import shutil
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

Outcome = TypeVar("Outcome", bound=BaseModel)


class Pieces(Generic[Outcome]):
    """The pieces of one job in one folder."""

    def __init__(self, folder: Path, kind: type[Outcome]) -> None:
        self.folder = folder
        self._kind = kind

    def find(self, name: str) -> Outcome | None:
        """The outcome that an earlier attempt kept; None if there is none, or it was kept by an older version."""
        try:
            return self._kind.model_validate_json((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            return None

    def keep(self, name: str, outcome: Outcome) -> None:
        """Write one down."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.{os.getpid()}.partial"
        with partial.open("w", encoding="utf-8") as file:
            file.write(outcome.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / f"{name}.json")

    def clear(self) -> None:
        """Forget them all: the job is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
