"""Progress bars of the prepare job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mtp.cli.console import notes


@contextmanager
def preparing() -> Iterator[Callable[[str, int, int], None]]:
    """Inside, the value takes (stage, done, total) and shows a bar for each stage."""
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
