"""The commands of docs/decoding.md, on a tiny model; and what `mtp generate` says of a model that has collapsed."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mtp.checkpoint import save_model
from mtp.cli.app import app
from mtp.decode.probe import record_probe
from mtp.errors import MTPError
from tests.decode.letters import letters
from tests.decode.tiny import tiny_model, toy_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "decoding.md"
COMMANDS = re.findall(r"^mtp (.*)$", PAGE.read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", tiny_model("sequential"), letters())


def run(words):
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit | MTPError), result.exception
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_on_decoding_does_what_it_says(command, folder):
    words = [str(folder) if word.startswith("models:/") else word for word in shlex.split(command)]
    if words[0] == "audit":
        words = [word if word != "2000" else "300" for word in words] + ["--prompts", "2"]
    result = run([*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    if "--regex" in words:
        assert re.fullmatch(r"[0-9]+(\.[0-9]+){2}", found["text"]) or len(found["tokens"]) == 64
    elif words[0] == "generate":
        assert found["target_passes"] > 0
    else:
        assert found["exact"]
        assert {row["verdict"] for row in found["rows"]} == {"exact", "lossy"}


def test_generate_refuses_a_collapsed_model_unless_told_not_to_look(folder, tmp_path):
    broken = save_model(tmp_path / "broken", tiny_model("shared"), letters())
    record_probe(broken, tiny_model("shared"), toy_rows(8, 40, torch.Generator()).tolist())
    probe = json.loads((broken / "probe.json").read_text())
    probe["loss"] = [loss / 3 for loss in probe["loss"]]  # the record of a much better model
    (broken / "probe.json").write_text(json.dumps(probe))
    result = run(["generate", str(broken), "abc"])
    assert isinstance(result.exception, MTPError)
    assert "is not what it was" in str(result.exception)
    assert run(["generate", str(broken), "abc", "--no-probe", "--json"]).exit_code == 0
