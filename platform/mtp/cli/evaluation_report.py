"""What `mtp evaluate` prints: headline figures, a table of horizons, one of domains and one of tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtp.cli.console import console, print_json, print_table

if TYPE_CHECKING:
    from mtp.evaluate import EvaluationReport


def show_evaluation(report: "EvaluationReport", as_json: bool) -> None:
    """JSON, or the tables."""
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    console.print(f"{report.model} on {report.data}", markup=False, highlight=False)
    print_table("Held-out text", ("figure", "value"), _headline(report))
    columns, rows = report.table()
    print_table("Horizons", columns, map(_rounded, rows))
    if report.domains:
        columns, rows = report.domain_table()
        print_table("Domains", columns, map(_rounded, rows))
    scores = [(task.task, metric, value) for task in report.tasks for metric, value in task.scores.items()]
    if scores:
        print_table("Tasks", ("task", "metric", "score"), map(_rounded, scores))


def _headline(report: "EvaluationReport") -> list[tuple[str, str]]:
    rows = [
        ("perplexity", f"{report.perplexity:.3f}"),
        ("bits per byte", f"{report.bits_per_byte:.4f}"),
        ("tokens", f"{report.tokens:,} of {report.rows:,} rows, windows of {report.window} every {report.stride}"),
    ]
    if (decoding := report.decoding) is not None:
        rows += [
            (
                "tokens per step",
                f"{decoding.tokens_per_step:.3f} (agreements alone: {report.predicted_tokens_per_step:.3f})",
            ),
            ("draft cost c", f"{decoding.draft_cost:.3f} of a pass"),
            ("same output with every K", f"{decoding.identical} of {decoding.prompts} prompts"),
        ]
        if (sampled := decoding.sampled) is not None:
            rates = ", ".join(f"{rate:.1%}" for rate in sampled.acceptance)
            rows.append((f"acceptance, sampled at temperature {sampled.temperature:g}", rates))
    return rows


def _rounded(row: Sequence[float | int | str | None]) -> list[str | None]:
    return [f"{cell:.3f}" if isinstance(cell, float) else None if cell is None else str(cell) for cell in row]
