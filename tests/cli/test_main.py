"""The command line as a user meets it: exit codes, one-sentence errors, nothing heavy imported for help."""

import json
import subprocess
import sys

import pytest
import yaml

HEAVY = ("torch", "ray", "mlflow", "deepspeed", "pyarrow", "matplotlib", "tokenizers")


def mtp(*arguments):
    command = [sys.executable, "-c", "from mtp.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_imports_no_heavy_library():
    code = (
        "import sys; sys.argv = ['mtp', '--help']\n"
        "from mtp.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def test_config_show_prints_the_resolved_configuration(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("train: {batch_size: 8}\n")
    shown = mtp("config", "show", str(path), "train.optimizer.lr=1e-4")
    assert shown.returncode == 0, shown.stderr
    tree = yaml.safe_load(shown.stdout)
    assert tree["train"]["batch_size"] == 8
    assert tree["train"]["optimizer"]["lr"] == 1e-4
    as_json = mtp("config", "show", str(path), "train.optimizer.lr=1e-4", "--json")
    assert json.loads(as_json.stdout) == tree


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("config", "show", "no-such-file.yaml"), "no-such-file.yaml"),
        (("no-such-command",), "no-such-command"),
        (("train",), "--config"),
        (("quickstart", "--minutes", "-1"), "minutes"),
        (("quickstart", "--corpus", "no-such-folder"), "no-such-folder"),
        (("submit", "dance", "--config", "x.yaml"), "dance"),
    ],
)
def test_wrong_arguments_exit_with_2_and_one_sentence(arguments, words):
    done = mtp(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_config_plot_draws_the_lambdas_and_says_what_token_importance_needs(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {{path: {tmp_path / 'none'}}}\n")
    done = mtp("config", "plot", str(path), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "lambda.png").read_bytes().startswith(b"\x89PNG")
    assert "prepared" in done.stderr
    timed = mtp("config", "plot", str(path), "train.minutes=1", "train.steps=null")
    assert timed.returncode == 2
    assert "train.minutes" in timed.stderr
