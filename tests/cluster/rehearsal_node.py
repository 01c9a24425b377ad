"""A Ray node on a host of the rehearsal, started again whenever it ends, as systemd or Kubernetes would do."""

import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster.ray_head import source_roots
from cluster.state import QUIET, SERVE_OVER_GRPC, write_private
from mtp.errors import MTPError
from tests.cluster.hosts import CABLE, Hosts

PORT = 6399
_AGAIN_S = 2.0


def environment(folder: Path) -> dict[str, str]:
    """Of everything on all hosts."""
    token = folder / "token"
    write_private(token, secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "__RAY"))}
    root = str(Path(__file__).resolve().parents[2])
    return {
        **kept,
        "MTP_HOME": str(folder / "home"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([root, *source_roots()])),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": CABLE,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_raylet_start_wait_time_s": "120",
        **SERVE_OVER_GRPC,
        **QUIET,
    }


class Node:
    """The node of one host, until `stop`."""

    def __init__(self, hosts: Hosts, number: int, variables: dict[str, str], cpus: int) -> None:
        address = hosts.address(number)
        role = ["--head", f"--port={PORT}", f"--temp-dir={hosts.temp_dir}"] if number == 0 else []
        role = role or [f"--address={hosts.address(0)}:{PORT}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *role]
        command += [f"--node-ip-address={address}", f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        self._command = hosts.command(number, *command)
        self._variables = variables
        self._log = Path(variables["MTP_HOME"]) / f"host-{number}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._stopping = threading.Event()
        self.starts = 0
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> "Node":
        """Returns when it runs.

        Raises:
            MTPError: it does not.
        """
        self._thread.start()
        deadline = time.monotonic() + 240
        while "Ray runtime started" not in self.said():
            if self.starts > 1 or time.monotonic() > deadline:
                raise MTPError(f"the Ray node did not start: {self.said()[-600:]}")
            time.sleep(0.2)
        return self

    def stop(self) -> None:
        """Do not start it again."""
        self._stopping.set()

    def said(self) -> str:
        """All that it printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self.starts += 1
            with self._log.open("ab") as output:
                process = subprocess.Popen(
                    self._command, env=self._variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
                process.wait()
            self._stopping.wait(_AGAIN_S)
