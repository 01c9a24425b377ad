"""`mtp config show`: the resolved configuration."""

import typer

from mtp.cli.console import AsJson, Overrides, print_json
from mtp.config import dump_config, load_config


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    group = typer.Typer(no_args_is_help=True, help="Look at configurations.")
    group.command("show")(show)
    app.add_typer(group, name="config")


def show(file: str, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print FILE resolved: every key, with defaults and overrides applied."""
    config = load_config(file, overrides or ())
    if as_json:
        print_json(config.model_dump(mode="json"))
    else:
        print(dump_config(config), end="")
