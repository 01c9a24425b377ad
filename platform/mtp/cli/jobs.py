"""`mtp prepare | train | evaluate` run a job here; `mtp submit` runs it on a cluster, `mtp jobs` looks after it."""

import importlib
import sys
from typing import Annotated

import typer
from pydantic import BaseModel

from jobs import JOBS
from mtp.cli.console import Address, AsJson, ConfigFile, Overrides, console, notes, print_json, print_table
from mtp.cli.progress import showing
from mtp.cli.session import ray_session
from mtp.config import Config, load_config
from mtp.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command("prepare")(prepare)
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("submit")(submit)
    group = typer.Typer(no_args_is_help=True, help="Jobs of the cluster: list, logs, stop.")
    group.command("list")(list_jobs)
    group.command("logs")(logs)
    group.command("stop")(stop)
    app.add_typer(group, name="jobs")


def prepare(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Make a prepared data set of a corpus: tokenizer, packed rows, manifest."""
    show(run("prepare", load_config(config, overrides or ()), progress=True), as_json)


def train(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train on a prepared data set, and register the model as `candidate`."""
    show(run("train", load_config(config, overrides or ())), as_json)


def evaluate(
    model_uri: Annotated[str | None, typer.Argument(help="Folder, runs:/ID/model or models:/NAME@ALIAS.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Prepared data set; default: the configuration's validation.")
    ] = None,
    domains: Annotated[
        int | None, typer.Option(min=0, help="Measure so many domains of the data apart: its largest source folders.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="YAML file of the configuration.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model: perplexity, agreement per horizon, acceptance, tokens per step."""
    from mtp.cli.cluster import configuration
    from mtp.cli.evaluation_report import show_evaluation
    from mtp.evaluate import EvaluationReport

    settings = {"model": model_uri, "data": data, "largest_domains": domains}
    chosen = [f"evaluate.{key}={value}" for key, value in settings.items() if value]
    report = run("evaluate", configuration(config, chosen), progress=True)
    assert isinstance(report, EvaluationReport)
    show_evaluation(report, as_json)


def submit(
    job: Annotated[str, typer.Argument(help=f"One of: {', '.join(JOBS)}.")],
    config: ConfigFile,
    overrides: Overrides = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log, or print the job's id.")] = True,
    address: Address = None,
) -> None:
    """Run a job on the cluster through Ray's job server; the exit code is the job's."""
    from cluster.submit import follow
    from cluster.submit import submit as send

    if job not in JOBS:
        raise UsageError(f"no job {job!r}; there are: {', '.join(JOBS)}")
    warn_of_risk(address)
    job_id = send(job, load_config(config, overrides or ()), address)
    if not wait:
        print(job_id)
        return
    raise typer.Exit(follow(job_id, wants_stop, address))


def warn_of_risk(address: str | None) -> None:
    """Say on stderr if the way to the cluster can be read along."""
    from cluster.target import target

    if address is not None and (risk := target(address).risk):
        notes.print(f"Warning: {risk}", markup=False, highlight=False)


def wants_stop() -> bool:
    """Ask at a terminal whether Ctrl-C meant the job too; anywhere else, and if Ctrl-C comes again, it did not."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    try:
        return typer.confirm("\nStop the job too? It goes on otherwise", default=False, err=True)
    except (typer.Abort, KeyboardInterrupt):
        return False


def list_jobs(address: Address = None, as_json: AsJson = False) -> None:
    """The cluster's jobs, newest first."""
    from cluster.submit import list_jobs as listed

    rows = listed(address)
    if as_json:
        print_json(rows)
    else:
        print_table("Jobs", ("id", "job", "status", "started"), ([*row.values()][:4] for row in rows))


def logs(job_id: str, address: Address = None) -> None:
    """Print a job's log so far."""
    from cluster.submit import logs as read

    print(read(job_id, address), end="")


def stop(job_id: str, address: Address = None) -> None:
    """Ask a running job to stop."""
    from cluster.submit import stop as ask

    ask(job_id, address)
    console.print(f"Asked {job_id} to stop.")


def run(job: str, config: Config, *, progress: bool = False) -> BaseModel:
    """Run `jobs.JOB` in this process, joined to Ray; `progress`: it tells of its own, which is shown."""
    module = importlib.import_module(f"jobs.{job}")
    with ray_session():
        if not progress:
            report: BaseModel = module.run(config)
            return report
        with showing() as on_progress:
            report = module.run(config, on_progress)
    return report


def show(report: BaseModel, as_json: bool) -> None:
    """A job's report: JSON, or a table of its fields."""
    fields = report.model_dump(mode="json")
    if as_json:
        print_json(fields)
    else:
        print_table(type(report).__name__, ("figure", "value"), fields.items())
