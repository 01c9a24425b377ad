"""The Markdown page of benchmark reports: what was measured, on what, and how to measure it again.

Everything between the page's two marks comes from the JSON files beside it; what people wrote around them stays. Knows
reports; knows nothing of how they were made.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from mtp.cli.bench.report import BenchReport, Ratio
from mtp.errors import MTPError, UsageError

BEGIN, END = "<!-- measured: written by mtp bench page -->", "<!-- end of what was measured -->"


def read_report(path: Path) -> BenchReport:
    """A report that `mtp bench ... --json` wrote.

    Raises:
        UsageError: there is no such file, or it is something else.
    """
    try:
        return BenchReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give files of mtp bench ... --json") from error
    except ValidationError as error:
        raise UsageError(f"{path} is no report of mtp bench: {error.errors()[0]['msg']}") from error


def measured_part(reports: Iterable[Path]) -> str:
    """The generated part of a page, with its marks; one section a report, titled by the file's name."""
    sections = [_section(path.stem, read_report(path)) for path in reports]
    return "\n\n".join([BEGIN, *sections, END])


def replace_measured(page: Path, reports: Sequence[Path]) -> None:
    """Write the page anew with what `reports` hold.

    Raises:
        MTPError: the page is not there, or lacks the marks.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise MTPError(f"{page} cannot be read ({error.strerror})") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MTPError(f"{page} lacks the marks {BEGIN} and {END}; write them where the tables belong")
    staging = page.with_name(f".{page.name}.new")
    staging.write_text(before + measured_part(reports) + after, encoding="utf-8")
    staging.replace(page)


def _section(title: str, report: BenchReport) -> str:
    machine, limits = report.machine, report.limits
    facts = [
        f"### {title}",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB; "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items() if version != "missing")
        + ". "
        + "Limits of the machine in the same run: "
        + ", ".join(f"{name} {value / 1e9:.1f} G/s" for name, value in limits.items())
        + f". Rounds: {report.rounds}.",
        _table(
            ("contestant", "median", "min", "max", "detail"),
            (
                (entry["name"], *(_rate(entry, key) for key in ("median", "min", "max")), _detail(entry["detail"]))
                for entry in report.contestants
            ),
        ),
        _table(("ratio", "median", "min", "max", "target", "holds"), (_ratio(ratio) for ratio in report.ratios)),
    ]
    return "\n\n".join(facts)


def _rate(entry: dict[str, object], key: str) -> str:
    value = entry.get(key)
    return f"{value:,.1f} {entry['unit']}" if isinstance(value, int | float) else "missing"


def _detail(detail: dict[str, object]) -> str:
    return ", ".join(f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in detail.items())


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    sign = ">=" if ratio.better == "higher" else "<="
    figures = (f"{value:.3g}" for value in (ratio.median, ratio.min, ratio.max))
    return (f"`{ratio.name}`", *figures, f"{sign} {ratio.target:g}", "yes" if ratio.holds else "**no**")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
