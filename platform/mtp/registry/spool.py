"""Metric points on disk, for the time during which the registry does not answer.

One file a run, one JSON line a point; a crash in the middle of a line costs that line alone. Sending the same points
twice is harmless, since MLflow knows a point by its name, step, time and value. Knows nothing about MLflow.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mtp.config import home


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    timestamp: int
    """Milliseconds since the epoch."""
    step: int


class Spool:
    """The points that one run still owes to the registry at `uri`."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.run_id = run_id
        self.path = _folder(uri) / f"{run_id}.jsonl"

    def __bool__(self) -> bool:
        """Whether anything is owed."""
        return self.path.is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold it while points are read, sent and cleared, so that another process adds none in between."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def append(self, points: Iterable[Point]) -> None:
        """Add points, safe on disk when this returns."""
        lines = "".join(json.dumps(point) + "\n" for point in points)
        with self.path.open("a") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Point]:
        """All points, oldest first; a torn line is left out."""
        if not self:
            return []
        found = []
        for line in self.path.read_text().splitlines():
            try:
                name, value, timestamp, step = json.loads(line)
            except ValueError:
                continue
            found.append(Point(name, value, timestamp, step))
        return found

    def clear(self) -> None:
        """Everything was sent."""
        self.path.unlink(missing_ok=True)


def spools(uri: str) -> list[Spool]:
    """The spools of all runs that owe points to the registry at `uri`."""
    return [Spool(uri, file.stem) for file in sorted(_folder(uri).glob("*.jsonl"))]


def _folder(uri: str) -> Path:
    return home() / "spool" / hashlib.sha256(uri.encode()).hexdigest()[:12]
