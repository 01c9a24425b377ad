"""`mtp models | promote | export | import`: the registry's life, and the way to and from the public layout."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mtp.cli.console import AsJson, console, notes, print_json, print_table
from mtp.errors import UsageError

ModelURI = Annotated[str, typer.Argument(help="Folder, runs:/ID/model, models:/NAME/VERSION or models:/NAME@ALIAS.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command("models")(models)
    app.command("promote")(promote)
    app.command("export")(export)
    app.command("import")(import_)


def models(
    name: Annotated[str | None, typer.Argument(help="Registered model.")] = None,
    version: Annotated[int | None, typer.Argument(help="Version whose card is shown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Registered models; with NAME its versions; with NAME VERSION that version's card."""
    from mtp.cli.session import registry

    uri = registry()
    if name is None:
        list_models(uri, as_json)
    else:
        list_versions(name, version, uri, as_json)


def list_models(uri: str, as_json: bool) -> None:
    """Every registered model and its aliases."""
    from mtp.registry import registered_models

    found = registered_models(uri=uri)
    if as_json:
        print_json(found)
        return
    rows = [(name, ", ".join(f"{alias} -> {at}" for alias, at in aliases.items())) for name, aliases in found.items()]
    print_table("Registered models", ("model", "aliases"), rows)


def list_versions(name: str, version: int | None, uri: str, as_json: bool) -> None:
    """A model's versions as a table, or one version's card."""
    from rich.markdown import Markdown

    from mtp.registry import versions

    found = [entry for entry in versions(name, uri=uri) if version in (None, entry.version)]
    if not found:
        raise UsageError(f"{name} has no version {version}; `mtp models {name}` lists them")
    if as_json:
        print_json([vars_of(entry) for entry in found])
    elif version is not None:
        console.print(Markdown(found[0].description))
    else:
        columns = ("version", "aliases", "ppl", "acceptance", "tokens/step", "run", "data", "created")
        print_table(f"Versions of {name}", columns, (row_of(entry) for entry in found))


def vars_of(version: Any) -> dict[str, Any]:
    """A `ModelVersion` as plain values."""
    from dataclasses import asdict

    return asdict(version)


def row_of(version: Any) -> tuple[Any, ...]:
    """A `ModelVersion` as a row of the table."""
    return (
        version.version,
        ", ".join(version.aliases) or None,
        version.perplexity and f"{version.perplexity:.2f}",
        " ".join(f"{share:.0%}" for share in version.acceptance) or None,
        version.tokens_per_step and f"{version.tokens_per_step:.2f}",
        version.run_id and version.run_id[:8],
        version.data_fingerprint and version.data_fingerprint[:12],
        f"{version.created:%Y-%m-%d %H:%M}",
    )


def promote(
    name: str,
    version: int,
    alias: Annotated[str, typer.Option(help="Alias to move.")] = "champion",
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version, if its files are whole and no check recorded with it has failed."""
    from mtp.cli.session import registry
    from mtp.registry import promote as move

    before = move(name, version, alias, uri=registry())
    if as_json:
        print_json({"name": name, "version": version, "alias": alias, "before": before})
    else:
        console.print(f"{name}@{alias} is version {version}" + (f" (was {before})" if before else ""))


def export(
    model_uri: ModelURI,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    without_modules: Annotated[
        bool, typer.Option("--without-modules", help="Leave out prediction modules that the layout cannot hold.")
    ] = False,
) -> None:
    """Write a model in the public DeepSeek-V3 layout, prediction modules included."""
    from mtp.checkpoint import export_hf
    from mtp.cli.session import registry
    from mtp.registry import fetch_model

    with notes.status(f"Exporting {model_uri}"):
        export_hf(fetch_model(model_uri, registry()), out, without_modules=without_modules)
    console.print(f"{out} holds {model_uri} in the DeepSeek-V3 layout")


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder in the public DeepSeek-V3 layout.")],
    name: Annotated[str, typer.Option(help="Registered model to add a version to.")],
    as_json: AsJson = False,
) -> None:
    """Register a model folder in the public DeepSeek-V3 layout as a new version."""
    import tempfile

    from mtp.checkpoint import import_hf, load_model_config
    from mtp.cli.session import registry
    from mtp.config import TrackingConfig
    from mtp.registry import ModelCard, finish_run, register_model, start_run

    uri = registry()
    with notes.status(f"Importing {folder}"), tempfile.TemporaryDirectory() as staging:
        model = Path(staging) / "model"
        import_hf(folder, model)
        config = load_model_config(model)
        run_id = start_run(TrackingConfig(uri=uri), f"import {folder.name}", {"model": config.model_dump(mode="json")})
        card = ModelCard(model=config, extra={"imported from": folder.name})
        version = register_model(run_id, model, name, card=card, uri=uri)
        finish_run(run_id, uri=uri)
    if as_json:
        print_json({"name": name, "version": version, "run": run_id})
    else:
        console.print(f"{folder} is version {version} of {name}")
