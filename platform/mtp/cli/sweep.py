"""`mtp sweep`: trains many variants of a configuration and shows which was best."""

import typer

from mtp.cli.console import AsJson, ConfigFile, Overrides, console, print_json, print_table
from mtp.cli.session import ray_session
from mtp.config import load_config


def register(app: typer.Typer) -> None:
    """Add this file's command to the tree."""
    app.command("sweep")(sweep)


def sweep(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train a grid or random choice of variants (`sweep.parameters`), and compare them."""
    from jobs.sweep import run
    from mtp.sweep import plan_trials

    settings = load_config(config, overrides or ())
    plan_trials(settings)  # refuses what is not valid before a cluster is started
    with ray_session():
        report = run(settings)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    keys = list(report.trials[0].values)
    print_table(
        f"Sweep {report.name}: {report.finished} finished, {report.failed} failed, {report.reused} from before",
        (*keys, report.metric, "seconds", "run"),
        (
            (
                *(trial.values[key] for key in keys),
                trial.error or f"{trial.value:.4f}",
                f"{trial.seconds:.0f}",
                trial.run_id,
            )
            for trial in report.trials
        ),
    )
    if report.best is not None:
        shown = " ".join(f"{key}={value}" for key, value in report.best.values.items())
        console.print(f"Best: {shown}; the whole sweep is MLflow run {report.parent_run_id}", highlight=False)
