"""How commands speak: rich tables for people on stdout, one JSON document for programs with --json.

Knows nothing about what is shown.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

console = Console()
notes = Console(stderr=True)
"""Progress and remarks, so that stdout holds the result alone."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
ConfigFile = Annotated[str, typer.Option("--config", help="YAML file of the configuration.")]
OptionalConfigFile = Annotated[str | None, typer.Option("--config", help="YAML file of the configuration.")]
Address = Annotated[
    str | None,
    typer.Option(help="Job server of another cluster, such as http://localhost:8265; RAY_AUTH_TOKEN_PATH: its token."),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value ...", show_default=False)]


def print_json(value: Any) -> None:
    """One JSON document on stdout; plain text, so that a pipe gets exactly it."""
    print(json.dumps(value, indent=2, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table with a title; None shows as a dash."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    console.print(table)
