"""`mtp config show | reference`: the resolved configuration, and every key that there is."""

import typer

from mtp.cli.console import AsJson, Overrides, print_json
from mtp.config import dump_config, load_config
from mtp.config.reference import reference as write_reference


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    group = typer.Typer(no_args_is_help=True, help="Look at configurations.")
    group.command("show")(show)
    group.command("reference")(reference)
    app.add_typer(group, name="config")


def show(file: str, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print FILE resolved: every key, with defaults and overrides applied."""
    config = load_config(file, overrides or ())
    if as_json:
        print_json(config.model_dump(mode="json"))
    else:
        print(dump_config(config), end="")


def reference() -> None:
    """Print every key with its type, default and meaning, as the Markdown of docs/configuration.md."""
    print(write_reference(), end="")
