"""Processes that outlive the command that started them, and how to find every one of them again.

Each cluster has an id. It is put into the environment of what the cluster starts, and the kernel hands it on to all
descendants, whatever session or process group they move to; so "ours" means "carries our id", and a recycled process
id never does. Knows nothing about Ray or MLflow.
"""

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

MARKER = "MTP_CLUSTER_ID"
_TICK_S = 0.02
"""The kernel counts starts in hundredths of a second."""


def launch(command: list[str], environment: Mapping[str, str], cluster_id: str, log: Path) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that neither Ctrl-C nor the end of this process reaches it.

    Its output goes to `log`; `environment` is all that it gets. SPT_NOENV keeps the titles that Ray gives its processes
    from overwriting the environment that `members` reads.
    """
    marked = {**environment, MARKER: cluster_id, "SPT_NOENV": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=marked, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def members(cluster_id: str) -> list[psutil.Process]:
    """Every living process that carries `cluster_id`, and their descendants; never the calling process."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if _carries(process, cluster_id):
            found[process.pid] = process
    for process in list(found.values()):
        try:
            found.update((child.pid, child) for child in process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _is_alive(process)]


def stop(cluster_id: str, grace_s: float = 2.0) -> list[int]:
    """End every member: a chance to leave in order, then SIGKILL until none is left. Returns their ids.

    Raises:
        TimeoutError: a process survived SIGKILL (it hangs in the kernel).
    """
    seen: set[int] = set()
    _signal_all(members(cluster_id), seen, kill=False)
    psutil.wait_procs(members(cluster_id), timeout=grace_s)
    for _ in range(20):  # what is killed may have started another meanwhile
        left = members(cluster_id)
        if not left:
            return sorted(seen)
        _signal_all(left, seen, kill=True)
        psutil.wait_procs(left, timeout=1.0)
    raise TimeoutError(f"processes {sorted(process.pid for process in left)} do not end")


def start_time(pid: int) -> float:
    """When process `pid` began, in seconds since the machine was started: setting the clock does not move it."""
    return float(psutil.Process(pid).create_time() - psutil.boot_time())


def is_running(pid: int, started: float) -> bool:
    """Whether `pid` is still the process that began at `started` (see start_time), not a later one."""
    try:
        return abs(start_time(pid) - started) < _TICK_S and _is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _carries(process: psutil.Process, cluster_id: str) -> bool:
    try:
        return process.environ().get(MARKER) == cluster_id
    except (psutil.Error, OSError):  # another user's, or gone
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal_all(processes: Iterable[psutil.Process], seen: set[int], *, kill: bool) -> None:
    for process in processes:
        seen.add(process.pid)
        try:
            process.kill() if kill else process.terminate()
        except psutil.NoSuchProcess:
            continue
