"""The peak memory of every process of a benchmark: of this one and of all that it started, Ray's too.

Looks once in a while at what the kernel has noted as each process's peak (VmHWM of Linux; elsewhere nothing is told).
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOOK_EVERY_S = 2.0
SMALLEST = 256 << 20
"""Bytes; smaller processes are left out."""


class MemoryWatch:
    """What was seen so far."""

    def __init__(self) -> None:
        self._peaks: dict[str, int] = {}

    def look(self) -> None:
        """Take note of all processes that live now."""
        import psutil

        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                name = "this process" if process.pid == os.getpid() else _name(process.cmdline())
            except (OSError, psutil.Error):
                continue  # it has ended, or this is no Linux
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
            if peak is not None:
                self._peaks[name] = max(self._peaks.get(name, 0), int(peak.split()[1]) << 10)

    def entries(self) -> list[dict[str, Any]]:
        """Rows of the report: of processes of one name the largest."""
        return [
            {"name": f"peak memory: {name}", "unit": "bytes", "median": peak, "detail": {}}
            for name, peak in sorted(self._peaks.items(), key=lambda pair: -pair[1])
            if peak >= SMALLEST
        ]


@contextmanager
def watching_memory() -> Iterator[MemoryWatch]:
    """Inside, the processes are looked at."""
    watch, done = MemoryWatch(), threading.Event()

    def look_on() -> None:
        while not done.wait(LOOK_EVERY_S):
            watch.look()

    thread = threading.Thread(target=look_on, name="memory-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()
        watch.look()


def _name(command: list[str]) -> str:
    """What a reader knows a process by: Ray's title, else the program and what it runs."""
    words = " ".join(command).split()
    if not words:
        return "a process that ends"
    if actor := re.match(r"ray::\w+", words[0]):
        return actor[0]  # without the method that it runs
    program = words[0].rsplit("/", 1)[-1]
    script = next((word.rsplit("/", 1)[-1] for word in words[1:] if word.endswith((".py", ".gguf"))), "")
    return f"{program} {script}".strip()
