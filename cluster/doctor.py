"""`mtp doctor`: can this machine run the platform, and if not, what to do about it.

Every check looks at one thing and says what it found; only those that would make something fail are `bad`. Imports none
of the heavy libraries, since a broken one is among the things to be found.
"""

import importlib.metadata
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil
from packaging.requirements import Requirement

from cluster.ports import is_free
from cluster.processes import MARKER
from cluster.state import ClusterState
from mtp.config import Config, home

GIB = 2**30
_HEAVY = ("ray", "torch", "deepspeed", "mlflow", "pyarrow")


@dataclass(frozen=True)
class Finding:
    """What a check found; `fix` is empty where nothing has to be done."""

    check: str
    state: Literal["good", "note", "bad"]
    found: str
    fix: str = ""


def examine(config: Config) -> list[Finding]:
    """All findings, in the order of the checks; nothing is changed on the machine."""
    return [finding for check in CHECKS for finding in check(config)]


def _versions(config: Config) -> Iterator[Finding]:
    yield Finding("python", "good", sys.version.split()[0])  # an older one could not have been installed into
    bounds = {
        one.name: one for text in importlib.metadata.requires("mtp-platform") or [] for one in [Requirement(text)]
    }
    for name in _HEAVY:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "bad", "is not installed", f"pip install '{bounds.get(name, name)}'")
            continue
        wanted = bounds[name].specifier if name in bounds else None
        if wanted is not None and not wanted.contains(version, prereleases=True):
            yield Finding(name, "bad", f"{version}, wanted {wanted}", f"pip install --upgrade '{bounds[name]}'")
        else:
            yield Finding(name, "good", version)


def _cores(config: Config) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fix = "set train.num_workers=1 and expect long waits" if cores < 2 else ""
    yield Finding("cores", "note" if cores < 2 else "good", str(cores), fix)


def _memory(config: Config) -> Iterator[Finding]:
    free = psutil.virtual_memory().available
    low = free < 4 * GIB
    fix = "close other programs: a cluster takes 1.2 GB, each training worker and replica 0.5 GB or more" if low else ""
    yield Finding("memory", "note" if low else "good", f"{free / GIB:.1f} GiB free", fix)


def _shared_memory(config: Config) -> Iterator[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return  # not Linux: Ray keeps its objects in a file
    free = shutil.disk_usage(folder).free
    wanted = config.cluster.object_store_mb * 2**20 * (1 + config.cluster.nodes)
    if free < wanted:
        fix = f"lower cluster.object_store_mb, or give /dev/shm more (in a container: --shm-size={wanted // GIB + 1}g)"
        yield Finding("shared memory", "bad", f"{free / GIB:.1f} GiB free, wanted {wanted / GIB:.1f}", fix)
    else:
        yield Finding("shared memory", "good", f"{free / GIB:.1f} GiB free")


def _gpus(config: Config) -> Iterator[Finding]:
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Finding("GPUs", "good", "none")
        return
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        yield Finding(
            "GPUs", "bad", f"nvidia-smi fails: {listed.stdout.strip()[:100]}", "repair the driver, or remove it"
        )
        return
    count = len(listed.stdout.splitlines())
    try:
        on_cpu = "+cpu" in importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return
    fix = "install the CUDA build of torch, or the GPUs stay idle" if on_cpu and count else ""
    yield Finding("GPUs", "bad" if fix else "good", f"{count}, torch is the CPU build" if fix else str(count), fix)


def _ports(config: Config) -> Iterator[Finding]:
    state = ClusterState.load()
    ours = state is not None and state.is_healthy()
    names = ["cluster.ray_port", "cluster.dashboard_port", "cluster.mlflow_port", "serve.port"]
    for name in names + (["cluster.prometheus_port"] if config.cluster.monitoring else []):
        section, _, key = name.partition(".")
        port = getattr(getattr(config, section), key)
        if is_free(port):
            yield Finding(name, "good", f"{port} is free")
        elif ours:
            yield Finding(name, "good", f"{port} is in use while the local cluster runs")
        else:
            yield Finding(name, "bad", f"{port} is in use by another program", f"give {name}=PORT another one")


def _cluster(config: Config) -> Iterator[Finding]:
    state = ClusterState.load()
    if state is None:
        yield Finding("cluster", "good", "none runs")
    elif state.is_healthy():
        yield Finding("cluster", "good", f"runs: {state.dashboard_url}")
    else:
        dead = [name for name, one in state.daemons.items() if not one.is_running()] or ["all of it"]
        yield Finding(
            "cluster", "bad", f"has died ({', '.join(dead)})", "mtp up starts it anew; mtp down clears it away"
        )
    left = _strays(state)
    if left:
        fix = f"end them: kill {' '.join(str(pid) for pid in left)}"
        yield Finding("processes", "note", f"{len(left)} of other clusters of this user run", fix)


def _strays(state: ClusterState | None) -> list[int]:
    """Processes of clusters whose state folder is ours, but that our state file does not know."""
    known = state.cluster_id if state is not None else ""
    found = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
        except (psutil.Error, OSError):
            continue
        if variables.get(MARKER, known) != known and variables.get("MTP_HOME", str(Path.home() / ".mtp")) == str(
            home()
        ):
            found.append(process.pid)
    return sorted(found)


def _registry(config: Config) -> Iterator[Finding]:
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None or not uri.startswith(("http://", "https://")):
        yield Finding("registry", "good", uri or "the local cluster's, or mlflow.db in the state folder")
        return
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=5)
    except httpx.HTTPError as error:
        yield Finding(
            "registry", "bad", f"{uri} does not answer ({type(error).__name__})", "start it, or unset its URI"
        )
        return
    good = answer.is_success
    yield Finding(
        "registry", "good" if good else "bad", f"{uri} answers {answer.status_code}", "" if good else "see its log"
    )


def _writing(config: Config) -> Iterator[Finding]:
    for name, folder, setting in (
        ("state folder", home(), "MTP_HOME"),
        ("temporary folder", Path(tempfile.gettempdir()), "TMPDIR"),
    ):
        existing = next(one for one in (folder, *folder.parents) if one.exists())
        if not os.access(existing, os.W_OK):
            yield Finding(name, "bad", f"{folder} cannot be written to", f"set {setting} to a folder of yours")
            continue
        free = shutil.disk_usage(existing).free
        low = free < 5 * GIB
        yield Finding(
            name,
            "note" if low else "good",
            f"{folder}, {free / GIB:.0f} GiB free",
            f"make room, or set {setting}" if low else "",
        )
    if len(tempfile.gettempdir()) > 27:  # what is added is 13 characters; Ray's sockets want 40 at most
        yield Finding(
            "temporary folder", "bad", "its path is too long for Ray's sockets", "set TMPDIR to a shorter one"
        )


def _limits(config: Config) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = soft < 4096
    fix = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}" if low else ""
    yield Finding("open files", "note" if low else "good", f"{soft} allowed", fix)


def _compiler(config: Config) -> Iterator[Finding]:
    found = shutil.which("g++")
    fix = "" if found else "install g++: decoding on the CPU compiles its inner loop, and is slower without"
    yield Finding("C++ compiler", "good" if found else "note", found or "none", fix)


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _versions,
    _cores,
    _memory,
    _shared_memory,
    _gpus,
    _ports,
    _cluster,
    _registry,
    _writing,
    _limits,
    _compiler,
)
