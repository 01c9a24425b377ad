"""The logs of the local cluster's servers: which there are, their last lines, and what is added to them.

Jobs' logs are in submit.py; requests' logs are Ray Serve's. Knows files alone, so it reads those of a dead cluster too.
"""

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from cluster.state import ClusterState
from mtp.config import home
from mtp.errors import UsageError

_POLL_S = 0.3


def servers() -> dict[str, Path]:
    """The log of each server that has one: of the last `mtp up`; of Ray's own servers while their folder is there."""
    found = {path.stem: path for path in sorted((home() / "logs").glob("*.log"))}
    state = ClusterState.load()
    if state is not None:
        found |= {name: one.log for name, one in (state.daemons | state.nodes).items() if one.log.is_file()}
    return found


def require(name: str) -> Path:
    """The log of a server.

    Raises:
        UsageError: it has none; the sentence lists those that have.
    """
    known = servers()
    if name not in known:
        raise UsageError(f"no log of {name!r} in {home() / 'logs'}; there are: {', '.join(known) or 'none'}")
    return known[name]


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines, without line ends."""
    with path.open(errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]


def follow(path: Path) -> Iterator[str]:
    """What is written from now on, piece by piece, for ever."""
    with path.open(errors="replace") as file:
        file.seek(0, 2)
        while True:
            text = file.read()
            if text:
                yield text
            else:
                time.sleep(_POLL_S)
