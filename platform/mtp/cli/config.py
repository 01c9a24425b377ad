"""`mtp config show | plot | reference`: the resolved configuration, its objective drawn, every key that there is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtp.cli.console import AsJson, Overrides, notes, print_json
from mtp.config import Config, dump_config, load_config
from mtp.config.reference import reference as write_reference
from mtp.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    group = typer.Typer(no_args_is_help=True, help="Look at configurations.")
    group.command("show")(show)
    group.command("plot")(plot)
    group.command("reference")(reference)
    app.add_typer(group, name="config")


def show(file: str, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print FILE resolved: every key, with defaults and overrides applied."""
    config = load_config(file, overrides or ())
    if as_json:
        print_json(config.model_dump(mode="json"))
    else:
        print(dump_config(config), end="")


def plot(
    file: str,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder that the pictures go to.")] = Path(),
) -> None:
    """Draw FILE's objective: lambda.png, and with prepared data in data.path token-importance.png."""
    config = load_config(file, overrides or ())
    if config.train.steps is None:
        raise UsageError(
            f"{file} trains for train.minutes; to plot it name a number of steps: train.minutes=null train.steps=1000"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in _figures(config, config.train.steps).items():
        figure.savefig(out / name)
        print(out / name)


def _figures(config: Config, steps: int) -> "dict[str, Figure]":
    import torch

    from mtp.data import open_dataset
    from mtp.errors import MTPError
    from mtp.evaluate import importance_figure, schedule_figure

    rows = config.train.batch_size * config.data.seq_len
    figures = {"lambda.png": schedule_figure(config.objective.lambdas, config.model.n_future, steps, rows)}
    try:
        data = open_dataset(f"{config.data.path}/train")
    except MTPError as error:
        notes.print(f"No picture of token importance without prepared data: {error}", highlight=False)
        return figures
    counts = torch.from_numpy(data.token_counts())
    figures["token-importance.png"] = importance_figure(
        config.objective.importance, counts, list(data.tokenizer.pieces)
    )
    return figures


def reference() -> None:
    """Print every key with its type, default and meaning, as the Markdown of docs/configuration.md."""
    print(write_reference(), end="")
