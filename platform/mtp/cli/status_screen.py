"""`mtp status` for people: what runs, on one screen. Knows the tree that cluster.status makes, not where it is from."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_JOBS_SHOWN = 5
_COLOURS = {"up": "green", "alive": "green", "running": "green", "succeeded": "green", "down": "yellow"}
_TROUBLE = {"broken", "dead", "failed", "unhealthy", "deploy_failed", "stopped"}


def screen(found: dict[str, Any]) -> Group:
    """Everything of a status that has something to say."""
    parts: list[RenderableType] = [Text.assemble("The local cluster is ", _state(found["cluster"]), ".")]
    if found["cluster"] == "down":
        parts.append(Text("`mtp up` starts one.", style="dim"))
    if found["cluster"] == "broken":
        parts.append(Text("`mtp up` clears its remains away and starts anew.", style="dim"))
    dead = [name for name, server in found["servers"].items() if not server["running"]]
    if dead:
        parts.append(Text(f"Not running: {', '.join(dead)}.", style="red"))
    urls = found["urls"] or {name: server["address"] for name, server in found["servers"].items()}
    parts += _table("Addresses", ("what", "where"), urls.items())
    parts += _table("Nodes", ("node", "state", "CPUs", "GPUs", "CPU used", "memory used"), map(_node, found["nodes"]))
    parts += _table(
        "Endpoints", ("model", "version", "traffic", "replicas", "state", "url"), map(_endpoint, found["endpoints"])
    )
    parts += [Text(f"{one['model']}: {one['note']}", style="yellow") for one in found["endpoints"] if one["note"]]
    parts += _table("Models", ("model", "aliases", "newest"), map(_model, found["models"]))
    jobs = found["jobs"]
    parts += _table("Jobs", ("id", "job", "state", "started", "exit code"), map(_job, jobs[:_JOBS_SHOWN]))
    if len(jobs) > _JOBS_SHOWN:
        parts.append(Text(f"and {len(jobs) - _JOBS_SHOWN} older ones: mtp jobs list", style="dim"))
    parts += [Text(f"{part} could not be read: {why}", style="red") for part, why in found["unreachable"].items()]
    return Group(*parts)


def show(found: dict[str, Any], console: Console) -> None:
    """Print the screen."""
    console.print(screen(found), highlight=False)


def _table(title: str, columns: tuple[str, ...], rows: Any) -> list[Table]:
    """A table, or nothing if there are no rows."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return [table] if table.row_count else []


def _node(node: dict[str, Any]) -> tuple[Any, ...]:
    name = f"{node['address']}{' (head)' if node['head'] else ''}"
    used, memory = node["cpu_percent"], node["memory_used_percent"]
    return name, _state(node["state"]), f"{node['cpus']:g}", f"{node['gpus']:g}", _percent(used), _percent(memory)


def _endpoint(row: dict[str, Any]) -> tuple[Any, ...]:
    version = row["version"] + (f" (follows {row['follows']})" if row["follows"] else "")
    replicas = f"{row['replicas']}/{row['replicas_wanted']}"
    return row["model"], version, f"{row['share_percent']:g} %", replicas, _state(row["status"]), row["url"]


def _model(model: dict[str, Any]) -> tuple[Any, ...]:
    aliases = ", ".join(f"{alias} = {version}" for alias, version in sorted(model["aliases"].items()))
    return model["name"], aliases or None, model["newest"]


def _job(job: dict[str, Any]) -> tuple[Any, ...]:
    return job["id"], job["job"], _state(job["status"]), job["started"], job["exit_code"]


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} %"


def _state(text: str) -> Text:
    return Text(text, style="red" if text in _TROUBLE else _COLOURS.get(text, ""))
