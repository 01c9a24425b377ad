"""`mtp up | down | status | logs | doctor`: the local cluster, and the machine that it runs on."""

import dataclasses
from typing import Annotated

import typer
from rich.markup import escape

from mtp.cli.console import AsJson, OptionalConfigFile, Overrides, console, notes, print_json, print_table
from mtp.cli.status_screen import show
from mtp.config import Config, build_config, load_config
from mtp.errors import MTPError


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)
    app.command("logs")(logs)
    app.command("doctor")(doctor)


def configuration(file: str | None, overrides: list[str] | None) -> Config:
    """The configuration of a command whose --config may be left out."""
    return load_config(file, overrides or ()) if file else build_config({}, overrides or (), where="command line")


def up(
    config: OptionalConfigFile = None,
    overrides: Overrides = None,
    nodes: Annotated[int | None, typer.Option(help="Ray nodes beside the head's, as cluster.nodes.", min=0)] = None,
    monitoring: Annotated[bool, typer.Option("--monitoring", help="Prometheus too, as cluster.monitoring.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start Ray (with its job server) and MLflow on this machine; they stay up until `mtp down`.

    Again: finds the running cluster, and starts the nodes and the monitoring that it lacks.
    """
    from cluster.local import up as start

    chosen = [*(overrides or ()), *([f"cluster.nodes={nodes}"] if nodes is not None else [])]
    chosen += ["cluster.monitoring=true"] if monitoring else []
    with notes.status("Starting the local cluster") as spinner:
        state = start(configuration(config, chosen).cluster, on_progress=lambda text: spinner.update(escape(text)))
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
    else:
        show(found, console)


def logs(
    server: Annotated[str | None, typer.Argument(help="Such as mlflow or raylet; default: list them.")] = None,
    lines: Annotated[int, typer.Option(help="Last lines to print.", min=0)] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added; Ctrl-C ends it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a server's log; jobs' logs are in `mtp jobs logs`."""
    from cluster import logs as files

    if server is None:
        found = {name: str(path) for name, path in files.servers().items()}
        if as_json:
            print_json(found)
        else:
            print_table("Logs", ("server", "file"), found.items())
        return
    path = files.require(server)
    last = files.last_lines(path, lines)
    if as_json:
        print_json({"server": server, "file": str(path), "lines": last})
        return
    for line in last:
        print(line)
    if not follow:
        return
    try:
        for text in files.follow(path):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        return


def doctor(config: OptionalConfigFile = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check this machine: versions, memory, ports, folders; a fix for each finding. Exit code 1 if something is bad."""
    from cluster.doctor import examine

    findings = examine(configuration(config, overrides))
    bad = sum(one.state == "bad" for one in findings)
    if as_json:
        print_json([dataclasses.asdict(one) for one in findings])
    else:
        print_table("This machine", ("check", "state", "found", "fix"), (dataclasses.astuple(one) for one in findings))
        console.print(f"{bad} to be mended." if bad else "Nothing has to be mended.")
    if bad:
        raise typer.Exit(1)
