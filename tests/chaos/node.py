"""A node beside the session's head that can be lost, with all that runs on it, and replaced as a node pool would."""

import contextlib
import os
import signal
import threading
import time

import psutil
import pytest

from cluster.local import up
from mtp.config import ClusterConfig
from tests.chaos.keeper import DOWN_S


class FurtherNode:
    """Joins the session's cluster; its processes are killed at the end."""

    def __init__(self, cpus, **environment):
        """`environment`: what its processes see besides the test's own variables."""
        self._environment = {name: str(value) for name, value in environment.items()}
        self._config = ClusterConfig(nodes=1, cpus_per_node=cpus, object_store_mb=100)
        self._replacement = threading.Thread(target=self._replace, daemon=True)

    def __enter__(self):
        self._start()
        return self

    def __exit__(self, *_):
        if self._replacement.is_alive():
            self._replacement.join()
        self._kill()

    def pids(self):
        """Of its processes, the raylet's among them."""
        return {self._raylet.pid, *(child.pid for child in self._raylet.children(recursive=True))}

    def lose(self):
        """Kill all of it; another node takes its place some seconds later. Returns the processes that died."""
        lost = self.pids()
        self._kill()
        self._replacement.start()
        return lost

    def _start(self):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._environment.items():
                patch.setenv(name, value)
            self._raylet = psutil.Process(up(self._config).nodes["node-1"].pid)

    def _kill(self):
        for pid in self.pids() if self._raylet.is_running() else ():
            with contextlib.suppress(ProcessLookupError):  # it has ended with its raylet
                os.kill(pid, signal.SIGKILL)

    def _replace(self):
        time.sleep(DOWN_S)
        self._start()
