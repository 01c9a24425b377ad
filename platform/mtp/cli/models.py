"""`mtp models | promote | refresh | export | import`: the registry's life, and the way to and from other layouts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtp.cli.console import AsJson, ConfigFile, OptionalConfigFile, Overrides, console, notes, print_json, print_table
from mtp.errors import UsageError

if TYPE_CHECKING:
    from mtp.config.promote import PromoteConfig
    from mtp.registry import Gate

ModelURI = Annotated[str, typer.Argument(help="Folder, runs:/ID/model, models:/NAME/VERSION or models:/NAME@ALIAS.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command("models")(models)
    app.command("promote")(promote)
    app.command("refresh")(refresh)
    app.command("compare")(compare)
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
        columns = ("version", "aliases", "ppl", "acceptance", "tokens/step", "in production", "run", "data", "created")
        print_table(f"Versions of {name}", columns, (row_of(entry) for entry in found))
        warn_of_drift(found)


def vars_of(version: Any) -> dict[str, Any]:
    """A `ModelVersion` as plain values, with what serving measured of it."""
    from dataclasses import asdict

    from mtp.registry import drift, production_of
    from mtp.registry.production import as_dict

    production = production_of(version.tags)
    return {
        **asdict(version),
        "production": production and as_dict(production),
        "drift": drift(version.acceptance, production),
    }


def warn_of_drift(found: list[Any]) -> None:
    """A line for each version whose drafts are accepted otherwise than its evaluation promised."""
    from mtp.registry import drift, production_of

    for version in found:
        sentence = drift(version.acceptance, production_of(version.tags))
        if sentence is not None:
            notes.print(f"[yellow]warning[/]: version {version.version}: {sentence}")


def in_production(version: Any) -> str | None:
    """Acceptance and tokens a step that serving measured."""
    from mtp.registry import production_of

    production = production_of(version.tags)
    if production is None:
        return None
    shares = " ".join(f"{share:.0%}" for share in production.acceptance)
    return f"{shares} ({production.tokens_per_step:.2f}, {production.at:%m-%d %H:%M})".strip()


def row_of(version: Any) -> tuple[Any, ...]:
    """A `ModelVersion` as a row of the table."""
    return (
        version.version,
        ", ".join(version.aliases) or None,
        version.perplexity and f"{version.perplexity:.2f}",
        " ".join(f"{share:.0%}" for share in version.acceptance) or None,
        version.tokens_per_step and f"{version.tokens_per_step:.2f}",
        in_production(version),
        version.run_id and version.run_id[:8],
        version.data_fingerprint and version.data_fingerprint[:12],
        version.parent and version.parent.removeprefix("models:/"),
        version.source_commit and version.source_commit[:8],
        f"{version.created:%Y-%m-%d %H:%M}",
    )


def promote(
    name: Annotated[str, typer.Argument(help="Registered model.")],
    version: Annotated[int | None, typer.Argument(help="Version; left out with --rollback.")] = None,
    alias: Annotated[str, typer.Option(help="Alias to move.")] = "champion",
    config: OptionalConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Move it although gates fail; that is written down.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the version that had it before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version that passes the gates of the configuration (section promote), or back again."""
    from mtp.cli.cluster import configuration
    from mtp.cli.session import registry
    from mtp.registry import promote as move
    from mtp.registry import roll_back

    if rollback == (version is not None):
        raise UsageError("give a VERSION to promote, or --rollback without one")
    uri, gates = registry(), {}
    before: int | None
    if version is None:
        before, version = roll_back(name, alias, uri=uri)
    else:
        gates = tried_gates(name, version, alias, configuration(config, None).promote, uri)
        before = move(name, version, alias, gates, force=force, uri=uri)
    if as_json:
        outcome = {gate: {"passed": passed, "detail": detail} for gate, (passed, detail) in gates.items()}
        print_json({"name": name, "version": version, "alias": alias, "before": before, "gates": outcome})
        return
    if gates:
        rows = [(gate, "passed" if passed else "FAILED", detail) for gate, (passed, detail) in gates.items()]
        print_table(f"Gates of {name} version {version}", ("gate", "outcome", "figures"), rows)
    console.print(f"{name}@{alias} is version {version}" + (f" (was {before})" if before else ""))


def tried_gates(name: str, version: int, alias: str, limits: "PromoteConfig", uri: str) -> "dict[str, Gate]":
    """The gates of the configuration, tried on the version's figures and files."""
    from mtp.evaluate.gates import promotion_gates
    from mtp.registry import fetch_model, versions

    model = fetch_model(f"models:/{name}/{version}", uri)
    known = {entry.version: entry for entry in versions(name, uri=uri)}
    champion = next((entry for entry in known.values() if alias in entry.aliases and entry.version != version), None)
    with notes.status("Trying the gates") as spinner:
        return promotion_gates(model, known[version], champion, limits, lambda doing: spinner.update(f"Gates: {doing}"))


def refresh(
    model_uri: ModelURI,
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a model's prediction modules anew on the configuration's data; the backbone stays as it is."""
    from mtp.cli.jobs import run, show
    from mtp.cli.session import registry
    from mtp.config import load_config

    registry()
    show(run("refresh", load_config(config, [*(overrides or ()), f"refresh.model={model_uri}"])), as_json)


def compare(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train and measure approaches, decoders and settings under one token budget; goes on where it was interrupted."""
    from mtp.cli.jobs import run
    from mtp.cli.session import registry
    from mtp.compare import CompareReport
    from mtp.config import load_config

    registry()
    report = run("compare", load_config(config, overrides or ()), progress=True)
    assert isinstance(report, CompareReport)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    console.print(report.budget)
    for table in report.tables:
        print_table(table.title, table.columns, table.texts())
        console.print(table.note, style="dim")
    console.print(f"{report.folder} holds the tables and figures; MLflow run {report.parent_run_id}")


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
    from mtp.registry import ModelCard, ending_run, register_model, start_run

    uri = registry()
    with notes.status(f"Importing {folder}"), tempfile.TemporaryDirectory() as staging:
        model = Path(staging) / "model"
        import_hf(folder, model)
        config = load_model_config(model)
        run_id = start_run(TrackingConfig(uri=uri), f"import {folder.name}", {"model": config.model_dump(mode="json")})
        card = ModelCard(model=config, extra={"imported from": folder.name})
        with ending_run(run_id, uri=uri):
            version = register_model(run_id, model, name, card=card, uri=uri)
    if as_json:
        print_json({"name": name, "version": version, "run": run_id})
    else:
        console.print(f"{folder} is version {version} of {name}")
