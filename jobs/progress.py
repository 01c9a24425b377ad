"""Progress of a job, told to whoever runs it: a caller that draws bars, or lines in the job's log.

Knows stages and counts; knows nothing about what is counted.
"""

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


class ProgressLines:
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
