"""Hosts on one machine: network namespaces, each with a cable to a switch, and with a folder of its own for Ray.

What runs on one host reaches the others through its cable alone, which can be pulled. Processors, memory and the file
system (as if it were shared storage) are the machine's. Wants root and iproute2. Knows nothing of what runs.
"""

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from mtp.errors import UsageError

NETWORK = "10.77.0"
CABLE = "cable0"
_ON_HOST = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
"""`ip netns exec` gives the command mounts of its own, so each host sees its own folder under the same path."""


class Hosts:
    """`count` hosts, numbered from 0; they and all their processes are gone after the block."""

    def __init__(self, count: int, folder: Path) -> None:
        """`folder`: a short path; `temp_dir` below it is each host's own."""
        tag = secrets.token_hex(2)
        self.names = [f"mtp-{tag}-{number}" for number in range(count)]
        self.temp_dir = folder / "t"
        self._switch = f"mtp-{tag}-switch"
        self._folders = [folder / f"host-{number}" for number in range(count)]

    def __enter__(self) -> "Hosts":
        for path in (self.temp_dir, *self._folders):
            path.mkdir(parents=True)
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(len(self.names)):
            self.end_processes(number)
        for name in (*self.names, self._switch):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def address(self, number: int) -> str:
        """Of a host, in the network that they share."""
        return f"{NETWORK}.{number + 1}"

    def command(self, number: int, *command: str) -> list[str]:
        """`command`, to be run on a host."""
        inside = ["sh", "-c", _ON_HOST, "sh", str(self._folders[number]), str(self.temp_dir), *command]
        return ["ip", "netns", "exec", self.names[number], *inside]

    def set_cable(self, number: int, plugged: bool) -> None:
        """Pull a host's cable, or plug it in again; at the switch, so that the host merely loses its carrier."""
        _ip("-n", self._switch, "link", "set", f"port{number}", "up" if plugged else "down")

    def end_processes(self, number: int) -> None:
        """Of a host; asked first, then killed."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._pids(number):
                try:
                    os.kill(pid, sent)
                except ProcessLookupError:
                    continue
            deadline = time.monotonic() + 5
            while self._pids(number) and time.monotonic() < deadline:
                time.sleep(0.2)

    def _pids(self, number: int) -> list[int]:
        listed = subprocess.run(
            ["ip", "netns", "pids", self.names[number]], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in listed.stdout.split()]

    def _build(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge0", "up")
        for number, name in enumerate(self.names):
            _ip("netns", "add", name)
            port = f"port{number}"
            _ip("link", "add", CABLE, "netns", name, "type", "veth", "peer", "name", port, "netns", self._switch)
            _ip("-n", self._switch, "link", "set", port, "master", "bridge0", "up")
            _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", CABLE)
            for device in ("lo", CABLE):
                _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "route", "add", "default", "dev", CABLE)  # by which Ray finds out its own address


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("`ip` is not installed; install iproute2") from None
    if done.returncode:
        raise UsageError(f"`ip {' '.join(words)}` fails: {done.stderr.strip()}; run this as root")
