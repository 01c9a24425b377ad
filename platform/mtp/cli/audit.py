"""`mtp audit`: is speculation exact on this very model?"""

from typing import TYPE_CHECKING, Annotated

import typer

from mtp.cli.console import AsJson, console, notes, print_json, print_table

if TYPE_CHECKING:
    from mtp.evaluate.audit import AuditReport


def register(app: typer.Typer) -> None:
    """Add this file's command to the tree."""
    app.command("audit")(audit)


def audit(
    model_uri: Annotated[
        str, typer.Argument(help="Folder, runs:/ID/model, models:/NAME/VERSION or models:/NAME@ALIAS.")
    ],
    draft_model: Annotated[str | None, typer.Option(help="A small model to test as a drafter too.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of the greedy test.")] = 32,
    samples: Annotated[int, typer.Option(min=200, help="Outputs drawn in each test of sampling.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Test greedy equality and the sampled distribution of every decoder; exit 1 if an exact one is not."""
    from mtp.checkpoint import load_model
    from mtp.cli.session import registry
    from mtp.evaluate.audit import audit as examine
    from mtp.registry import fetch_model

    with notes.status(f"Loading {model_uri}") as status:
        uri = registry()
        model = load_model(fetch_model(model_uri, uri))
        drafter = load_model(fetch_model(draft_model, uri)) if draft_model else None
        report = examine(
            model,
            prompts=prompts,
            samples=samples,
            draft_model=drafter,
            on_progress=lambda doing: status.update(f"{model_uri}: {doing}"),
        )
    if as_json:
        print_json(as_tree(model_uri, report))
    else:
        show(model_uri, report)
    if report.failed:
        raise typer.Exit(1)


def as_tree(model_uri: str, report: "AuditReport") -> dict[str, object]:
    """The report as plain values."""
    from dataclasses import asdict

    return {"model": model_uri, **asdict(report), "exact": not report.failed}


def show(model_uri: str, report: "AuditReport") -> None:
    """The verdicts as a table."""
    rows = [(row.decoder, row.rule, row.test, row.verdict, row.detail) for row in report.rows]
    print_table(f"Audit of {model_uri}", ("decoder", "rule", "test", "verdict", "seen"), rows)
    if report.failed:
        console.print(f"{len(report.failed)} of {len(rows)} tests failed: speculation is not exact on this model")
    else:
        console.print(f"exact decoders are exact (all tests together err once in {1 / report.error_rate:,.0f} audits)")
