"""Starts the GCS and its Redis again whenever they have died, some seconds later, as Kubernetes would do."""

import threading

import psutil

from cluster import ray_head
from cluster.processes import launch
from cluster.state import ClusterState

DOWN_S = 5
"""How long each stays away: a restarted container is not there at once."""


class Keeper:
    """`restarts` names what it has started again."""

    def __init__(self, state, redis):
        self._state, self.redis = state, redis
        gcs = psutil.Process(state.daemons["gcs"].pid)
        self._command, self._environment = gcs.cmdline(), gcs.environ()
        self._gcs = gcs
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
        return self.redis.is_running() and self._alive()

    def _run(self):
        while not self._stop.wait(1):
            if not self.redis.is_running() and not self._stop.wait(DOWN_S):
                self.redis.start()
                self.restarts.append("redis")
            if not self._alive() and not self._stop.wait(DOWN_S):
                log = self._state.ray_temp_dir / "session_latest" / "logs" / "gcs_server.again.out"
                process = launch(self._command, self._environment, self._state.cluster_id, log)
                self._gcs = psutil.Process(process.pid)
                self.restarts.append("gcs")

    def _alive(self):
        return self._gcs.is_running() and self._gcs.status() != psutil.STATUS_ZOMBIE
