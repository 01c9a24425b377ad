"""What can be done to a training and an endpoint, by name, and a seeded order of it. Each fault is real."""

import random
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.processes import members
from mtp.train import RunFolder
from mtp.train.manifest import newest_whole
from tests.train.fits import worker_processes

TINY_FILE = 2000
"""Bytes: less than any checkpoint has, so that a process with this limit has a full disk."""


@dataclass(frozen=True)
class Fault:
    """What happens when the training tells of `step`."""

    step: int
    name: str


def schedule(seed, steps, names):
    """The faults in an order and at steps that the seed decides; the last ones leave room to recover in."""
    chance = random.Random(seed)
    order = list(names)
    chance.shuffle(order)
    room = int(0.7 * steps) // len(order)
    return [Fault(5 + place * room + chance.randrange(room // 2), name) for place, name in enumerate(order)]


class Faults:
    """Does them to the training of `config`, to the endpoint's replicas, to `node`, to what `keeper` starts again."""

    def __init__(self, seed, state, config, cable, keeper=None, node=None):
        self._chance = random.Random(seed + 1)
        self._state = state
        self._config = config
        self._cable = cable
        self._keeper = keeper
        self._node = node
        self.done = []

    def do(self, name):
        """One of them; `done` says to whom."""
        self.done.append(f"{name}: {getattr(self, name)()}")

    def kill_worker(self):
        return self._kill(self._chance.choice(worker_processes()))

    def kill_replica(self):
        return self._kill(self._chance.choice(processes(self._state, ":replica")))

    def kill_proxy(self):
        return self._kill(processes(self._state, "ProxyActor")[0])

    def kill_gcs(self):
        """Unless it is away, since its Redis was killed just before."""
        return self._kill(self._keeper.gcs_pid) if self._keeper.whole() else "it was away"

    def lose_node(self):
        return f"lost {len(self._node.lose())} processes"

    def kill_redis(self):
        return f"killed {self._keeper.redis.kill()}"

    def cut_registry(self):
        self._cable.cut()
        return "until it is mended"

    def mend_registry(self):
        self._cable.mend()

    def corrupt_checkpoint(self):
        """A byte of the newest whole one, and a worker killed, so that somebody has to choose."""
        folder = RunFolder.of(self._config)
        newest = newest_whole(folder.filesystem, folder.path)
        if newest is None:
            return "there was none"
        name, manifest = newest
        file = Path(folder.path) / name / self._chance.choice(sorted(manifest.files))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        return f"{name}/{file.name}, and {self.kill_worker()}"

    def fill_disk(self):
        """For one worker, whose next checkpoints then find no room."""
        pid = self._chance.choice(worker_processes())
        psutil.Process(pid).rlimit(resource.RLIMIT_FSIZE, (TINY_FILE, resource.RLIM_INFINITY))
        return f"for {pid}"

    def free_disk(self):
        for pid in worker_processes():
            psutil.Process(pid).rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def _kill(self, pid):
        psutil.Process(pid).send_signal(signal.SIGKILL)
        return f"killed {pid}"


def processes(state, title):
    """Ids of the cluster's processes whose title holds `title`."""
    found = []
    for process in members(state.cluster_id):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return sorted(found)
