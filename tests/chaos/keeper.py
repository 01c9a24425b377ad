"""Starts the GCS and its Redis again whenever they have died, some seconds later, as Kubernetes would do."""

import threading

import psutil

from cluster import ray_head
from cluster.processes import launch, start_time
from cluster.state import ClusterState, Daemon

DOWN_S = 5
"""How long each stays away: a restarted container is not there at once."""


class Keeper:
    """`restarts` names what it has started again."""

    def __init__(self, state, redis):
        self._state, self.redis = state, redis
        self._gcs = state.daemons["gcs"]
        process = psutil.Process(self.gcs_pid)
        self._command, self._environment = process.cmdline(), process.environ()
        self.restarts = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def gcs_pid(self):
        return self._gcs.pid

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        current = ClusterState.load()
        current.model_copy(update={"daemons": {**current.daemons, **ray_head.daemons(self._state)}}).save()

    def whole(self):
        """Whether both run."""
        return self.redis.is_running() and self._gcs.is_running()

    def _run(self):
        while not self._stop.wait(1):
            if not self.redis.is_running() and not self._stop.wait(DOWN_S):
                self.redis.start()
                self.restarts.append("redis")
            if not self._gcs.is_running() and not self._stop.wait(DOWN_S):
                log = self._state.ray_temp_dir / "session_latest" / "logs" / "gcs_server.again.out"
                pid = launch(self._command, self._environment, self._state.cluster_id, log).pid
                self._gcs = Daemon(pid=pid, started=start_time(pid), log=log)
                self.restarts.append("gcs")
