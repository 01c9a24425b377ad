"""Progress of long work in stages: told to a caller that draws bars, or as lines in a log.

Knows stages and counts; knows nothing about what is counted.
"""

from collections.abc import Callable

OnStage = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


class StageLines:
    """One line for every tenth of a stage."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or (lambda line: print(line, flush=True))
        self._told: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Tell of it, unless the last line of the stage was about the same tenth."""
        tenth = 10 * done // total if total else 10
        if self._told.get(stage) != tenth:
            self._told[stage] = tenth
            self._write(f"{stage}: {done:,} of {total:,}")
