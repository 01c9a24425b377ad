"""`mtp keys add | list | revoke`: who may use the endpoint, and how much."""

from pathlib import Path
from typing import Annotated

import typer

from mtp.cli.console import AsJson, console, notes, print_json, print_table

KeyFile = Annotated[Path | None, typer.Option("--file", help="As serve.api_keys; default: in the state folder.")]
Name = Annotated[str, typer.Argument(help="Of the key, such as the team that uses it.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    group = typer.Typer(no_args_is_help=True, help="API keys of the endpoint.")
    group.command("add")(add)
    group.command("list")(list_)
    group.command("revoke")(revoke)
    app.add_typer(group, name="keys")


def add(
    name: Name,
    requests_per_minute: Annotated[int | None, typer.Option(help="Default: no limit.", min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Of prompts and outputs.", min=1)] = None,
    file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once; running endpoints accept it at once."""
    from serve.api_keys import KeyStore

    key, secret = KeyStore(file).add(name, requests_per_minute, tokens_per_minute)
    if as_json:
        print_json({"name": key.name, "key": secret})
        return
    notes.print("Keep it: only its hash is stored.")
    print(secret)


def list_(file: KeyFile = None, as_json: AsJson = False) -> None:
    """All keys, without their secrets."""
    from serve.api_keys import KeyStore

    keys = KeyStore(file).keys()
    if as_json:
        print_json([key.model_dump(mode="json", exclude={"sha256"}) for key in keys])
        return
    columns = ("name", "created", "requests/min", "tokens/min", "state")
    rows = (
        (
            key.name,
            f"{key.created:%Y-%m-%d %H:%M}",
            key.requests_per_minute,
            key.tokens_per_minute,
            "revoked" if key.revoked else "valid",
        )
        for key in keys
    )
    print_table("API keys", columns, rows)


def revoke(name: Name, file: KeyFile = None) -> None:
    """End a key; running endpoints refuse it at once."""
    from serve.api_keys import KeyStore

    KeyStore(file).revoke(name)
    console.print(f"{name} is revoked")
