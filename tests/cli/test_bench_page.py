from pathlib import Path

import pytest

from mtp.cli.bench.page import BEGIN, END, measured_part, replace_measured
from mtp.cli.bench.report import BenchReport, Ratio
from mtp.errors import MTPError, UsageError

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "train.json"
    BenchReport(
        machine={"processor": "x", "cores": 2, "threads": 2, "memory_gib": 24},
        versions={"torch": "2", "ray": "missing"},
        limits={"matmul_flops": 2e9},
        contestants=[
            {"name": "ours", "unit": "tokens/s", "median": 1234.5, "min": 1.0, "max": 2.0, "detail": {"batch": 4}},
            {"name": "peer", "unit": "", "median": None, "detail": {"missing": "not installed"}},
        ],
        rounds=5,
        ratios=[Ratio.of("mfu", [0.5, 0.6, 0.7], 0.6, "higher"), Ratio.of("memory", [2.0], 1.05, "lower")],
    ).write(path)
    return path


def test_a_page_gets_every_contestant_and_ratio_and_keeps_what_people_wrote(report, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{BEGIN}\nbygone\n{END}\nafter\n")
    replace_measured(page, [report])
    text = page.read_text()
    assert text.startswith(f"# Before\n{BEGIN}\n\n### train")
    assert text.endswith(f"{END}\nafter\n")
    assert "| ours | 1,234.5 tokens/s | 1.0 tokens/s | 2.0 tokens/s | batch 4 |" in text
    assert "| peer | missing | missing | missing | missing not installed |" in text
    assert "| `mfu` | 0.6 | 0.5 | 0.7 | >= 0.6 | yes |" in text
    assert "| `memory` | 2 | 2 | 2 | <= 1.05 | **no** |" in text
    assert "bygone" not in text
    replace_measured(page, [report])
    assert page.read_text() == text


def test_a_page_without_marks_is_left_alone(report, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(MTPError, match="lacks the marks"):
        replace_measured(page, [report])
    assert page.read_text() == "nothing"


def test_what_is_no_report_is_named(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(UsageError, match=r"x\.json cannot be read"):
        measured_part([path])
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"x\.json is no report"):
        measured_part([path])


def test_the_benchmark_page_holds_what_its_reports_say():
    reports = sorted((DOCS / "benchmarks").glob("*.json"))
    assert measured_part(reports) in (DOCS / "benchmarks.md").read_text(), "run: mtp bench page docs/benchmarks.md ..."
