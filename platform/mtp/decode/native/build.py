"""Compiles the C++ step with the machine's own compiler, once, and loads it; knows nothing of models.

The library lies under MTP_HOME, named after a hash of the sources, the compiler and the processor, so that a new
version or another machine makes its own. A compiler is no requirement: without one the engine computes in PyTorch.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from mtp.config import home

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++20", "-shared", "-fPIC", "-pthread", "-Wno-psabi", "-ffp-contract=off", "-march=native")
TIMEOUT_S = 180


class BuildError(Exception):
    """There is no library; the message says why."""


@cache
def library() -> ctypes.CDLL:
    """The compiled step.

    Raises:
        BuildError: no compiler is here, or it failed.
    """
    compiler = _compiler()
    target = home() / "cache" / "native" / f"step-{_fingerprint(compiler)}.so"
    if not target.exists():
        _compile(compiler, target)
    try:
        loaded = ctypes.CDLL(str(target))
    except OSError as error:
        raise BuildError(f"{target} does not load: {error}") from error
    loaded.mtp_pass.argtypes = [ctypes.c_void_p]
    loaded.mtp_linear.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    loaded.mtp_draft.argtypes = [ctypes.c_void_p]
    loaded.mtp_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    for function in (loaded.mtp_pass, loaded.mtp_linear, loaded.mtp_draft):
        function.restype = None
    loaded.mtp_step.restype = ctypes.c_double
    return loaded


def _compiler() -> str:
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    for name in wanted:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(f"no C++ compiler is installed (looked for {', '.join(wanted)})")


def _fingerprint(compiler: str) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(SOURCES.glob("*.h")) + sorted(SOURCES.glob("*.cpp")):
        digest.update(path.read_bytes())
    digest.update("\0".join((compiler, *FLAGS, platform.machine(), _processor_flags())).encode())
    return digest.hexdigest()


def _processor_flags() -> str:
    """What -march=native depends on, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def _compile(compiler: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    command = [compiler, *FLAGS, str(SOURCES / "step.cpp"), "-o", str(staging)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise BuildError(f"{compiler} failed: {lines[0]}")
        staging.replace(target)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{compiler} took longer than {TIMEOUT_S} s") from error
    except OSError as error:
        raise BuildError(f"{compiler} could not run: {error}") from error
    finally:
        staging.unlink(missing_ok=True)
