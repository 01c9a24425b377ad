"""Which ports are free on the loopback address, and the sentence for one that is not."""

import itertools
import random
import socket
from collections.abc import Mapping

from mtp.errors import MTPError, UsageError

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """`count` different ports that nothing listens on, below the range that outgoing connections draw from."""
    candidates = random.sample(range(20_000, 32_000), 1_000)
    found = list(itertools.islice((port for port in candidates if is_free(port)), count))
    if len(found) < count:
        raise MTPError(f"found no {count} free ports between 20000 and 32000 on {LOOPBACK}; close some programs")
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def require_free(ports: Mapping[str, int]) -> None:
    """Check ports by the configuration key that sets them, such as `{"cluster.ray_port": 6380}`.

    Raises:
        UsageError: one is in use, or two are the same.
    """
    by_port: dict[int, str] = {}
    for key, port in ports.items():
        if port in by_port:
            raise UsageError(f"{by_port[port]} and {key} are both {port}; give each a port of its own")
        by_port[port] = key
        if not is_free(port):
            raise UsageError(f"port {port} is in use by another program; set {key} to a free one ({key}=PORT)")
