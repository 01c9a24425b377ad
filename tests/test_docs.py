"""The docs are true: links resolve, commands exist, and the configuration page is the schema's."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from jobs import JOBS
from mtp.cli.app import app
from mtp.compare import CompareReport
from mtp.config import load_config
from mtp.config.reference import reference

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands(page: Path) -> list[list[str]]:
    """Every `mtp ...` line of the page's code blocks, as words."""
    found = []
    for block in re.findall(r"```[a-z]*\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"\$?\s*(?:\.venv/bin/)?mtp\s+(.*)", line.strip())
            if match:
                found.append(shlex.split(match[1], comments=True))
    return found


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and the words left for it."""
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command mtp {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist_with_their_options(page):
    for words in commands(page):
        command, rest = resolve(words)
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in {*options, "--help"}, f"{page.name}: mtp {' '.join(words)}"
        if words[0] == "submit":
            assert words[1] in JOBS, f"{page.name}: mtp {' '.join(words)}"
        for index, word in enumerate(rest):
            if word == "--config" and (ROOT / rest[index + 1]).parent.name == "configs":
                overrides = [item for item in rest if re.fullmatch(r"[a-z_.]+=\S+", item)]
                load_config(ROOT / rest[index + 1], overrides)


def test_the_configuration_page_is_the_schemas():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page.endswith(reference()), "run: mtp config reference, and put it at the end of docs/configuration.md"


def test_the_comparisons_tables_are_those_of_its_report():
    report = CompareReport.model_validate_json((ROOT / "docs" / "comparison" / "comparison.json").read_text())
    page = (ROOT / "docs" / "comparison.md").read_text()
    assert report.budget in page
    for table in report.tables:
        assert f"#{table.markdown()}\n" in page, table.name


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    load_config(preset)
