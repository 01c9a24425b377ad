"""Progress of the jobs that the command line runs: bars on a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mtp.cli.console import notes
from mtp.progress import OnStage, StageLines


@contextmanager
def showing() -> Iterator[OnStage]:
    """Inside, the value takes (stage, done, total) and shows a bar for each stage, or lines where bars cannot move."""
    if not notes.is_terminal:
        yield StageLines(lambda line: notes.print(line, highlight=False))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=notes) as progress:
        bars: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                for bar in bars.values():
                    progress.update(bar, completed=progress.tasks[bar].total)
                bars[stage] = progress.add_task(stage, total=total)
            progress.update(bars[stage], completed=done, total=total)

        yield show


@contextmanager
def telling(words: str) -> Iterator[Callable[[str], None]]:
    """Inside, the value takes what is being done now: a spinner's words on a terminal, a line each elsewhere."""
    if not notes.is_terminal:
        notes.print(words, highlight=False, markup=False)
        yield lambda now: notes.print(now, highlight=False, markup=False)
        return
    with notes.status(escape(words)) as spinner:
        yield lambda now: spinner.update(escape(now))
