"""`mtp up | down | status`: the local cluster."""

import typer
from rich.markup import escape

from mtp.cli.console import AsJson, OptionalConfigFile, Overrides, console, notes, print_json, print_table
from mtp.config import Config, build_config, load_config
from mtp.errors import MTPError


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)


def configuration(file: str | None, overrides: list[str] | None) -> Config:
    """The configuration of a command whose --config may be left out."""
    return load_config(file, overrides or ()) if file else build_config({}, overrides or (), where="command line")


def up(config: OptionalConfigFile = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Start Ray (with its job server) and MLflow on this machine; they stay up until `mtp down`."""
    from cluster.local import up as start

    with notes.status("Starting the local cluster") as spinner:
        state = start(configuration(config, overrides).cluster, on_progress=lambda text: spinner.update(escape(text)))
        settle_metrics(state.mlflow_url)
    if as_json:
        print_json(state.summary())
    else:
        print_table("Local cluster", ("what", "where"), state.summary().items())


def settle_metrics(uri: str) -> None:
    """Send the registry what runs logged while it was down; not being able to is no reason to have no cluster."""
    from mtp.registry import send_spooled

    try:
        sent = send_spooled(uri)
    except MTPError as error:
        notes.print(f"Metrics of earlier runs still wait to be sent: {error}", markup=False)
        return
    if sent:
        notes.print(f"Sent {sent} metric values that runs had logged while the registry was down.")


def down(as_json: AsJson = False) -> None:
    """Stop exactly what `mtp up` (or quickstart) started."""
    from cluster.local import down as stop

    with notes.status("Stopping the local cluster"):
        stopped = stop()
    if as_json:
        print_json({"stopped": stopped})
    else:
        console.print(f"Stopped {len(stopped)} processes." if stopped else "No local cluster was running.")


def status(as_json: AsJson = False) -> None:
    """What runs: servers, nodes, jobs, endpoints, registered models, and where to find them."""
    from cluster.status import status as look

    found = look()
    if as_json:
        print_json(found)
        return
    console.print(f"The local cluster is {found['cluster']}.")
    for title, rows in found.items():
        if title == "servers":
            shown = [{"server": name, **server} for name, server in rows.items()]
        elif title == "unreachable":
            shown = [{"part": part, "why": why} for part, why in rows.items()]
        else:
            shown = rows if isinstance(rows, list) else []
        if shown:
            print_table(title.capitalize(), tuple(shown[0]), (tuple(row.values()) for row in shown))
