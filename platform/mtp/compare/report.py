"""A comparison's outcome: tables of cells with their spread, as plain values, and how they print as Markdown.

Knows cells and text; knows nothing of what they mean.
"""

import statistics
from collections.abc import Sequence

from pydantic import BaseModel


class Cell(BaseModel):
    """One figure over seeds."""

    values: list[float]
    """One a seed; empty where it was not reached or does not apply."""
    format: str = ".3g"

    @property
    def mean(self) -> float | None:
        """None for an empty cell."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation; None for fewer than two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self) -> str:
        """`mean ± spread`, or a dash."""
        if self.mean is None:
            return "-"
        if self.spread is None:
            return f"{self.mean:{self.format}}"
        spread = f"{self.spread:{self.format}}" if self.format.endswith("%") else f"{self.spread:.2g}"
        return f"{self.mean:{self.format}} ± {spread}"


class Table(BaseModel):
    """Rows of a label and cells or words."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell | str]]
    note: str = ""
    """What the figures rest on."""

    def texts(self) -> list[list[str]]:
        """Every row as words."""
        return [[cell.text() if isinstance(cell, Cell) else cell for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """The table with its heading and note."""
        lines = [_line(self.columns), _line(["---"] * len(self.columns)), *map(_line, self.texts())]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])


class CompareReport(BaseModel):
    """Every table, and the budget that they rest on."""

    name: str
    parent_run_id: str
    folder: str
    """comparison.md, comparison.json and the figures lie here."""
    tokens: int
    seeds: list[int]
    budget: str
    tables: list[Table]

    def markdown(self) -> str:
        """All of it as a page."""
        return "\n\n".join([f"# {self.name}", self.budget, *(table.markdown() for table in self.tables)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
