"""The tree of commands. Each group of commands lies in a file of its own and registers itself here."""

from typing import Annotated

import typer

from mtp.cli import audit, bench, cluster, config, jobs, keys, models, plan, quickstart, serving, sweep

app = typer.Typer(
    name="mtp",
    help="From raw text to a served multi-token-prediction model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_state = {"debug": False}


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of expected errors too.")] = False,
) -> None:
    """From raw text to a served multi-token-prediction model."""
    _state["debug"] = debug


def debugging() -> bool:
    """Whether --debug was given."""
    return _state["debug"]


for group in (quickstart, cluster, jobs, models, plan, sweep, serving, audit, keys, bench, config):
    group.register(app)
