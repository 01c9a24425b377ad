"""A Redis server of the tests' own, that forgets nothing when it is killed."""

import subprocess

from cluster.ports import LOOPBACK, free_ports


class Redis:
    """`redis-server`, which the distribution's package brings, with every write in a file before it is answered."""

    def __init__(self, folder):
        self._folder = folder
        self._port = free_ports(1)[0]
        self._process = None

    @property
    def address(self):
        return f"{LOOPBACK}:{self._port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        settings = {"port": self._port, "bind": LOOPBACK, "dir": self._folder, "save": "''", "appendonly": "yes"}
        settings["appendfsync"] = "always"
        command = ["redis-server", *(f"--{name} {value}" for name, value in settings.items())]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def is_running(self):
        return self._process.poll() is None

    def kill(self):
        self._process.kill()
        self._process.wait()
        return self._process.pid
