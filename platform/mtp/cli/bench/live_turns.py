"""A training of the platform and a peer's loop, both alive, each standing still while the other steps.

A machine's speed moves by half within minutes, so that two runs of twenty seconds one after the other say little. Here
the two change places every few seconds: the platform's workers are stopped by SIGSTOP at the end of a logging interval,
the peer's loop, in a process of its own, waits for leave. Of a turn the first interval finds the other's data in the
caches and is not counted. Knows processes and turns; nothing of what the loops do. The cluster is this machine.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from mtp.config import Config
from mtp.errors import MTPError

if TYPE_CHECKING:
    from mtp.train.events import TrainEvent

INTERVALS = 2
"""Logging intervals of a turn; the last is counted."""
CLOSE_S = 10.0

BeforeStep = Callable[[], None]
Loop = Callable[[Config, int, BeforeStep], None]
"""A peer: trains on `config` with so many threads, without end, and calls the third argument before every step."""


class Peer:
    """A peer's loop in a process of its own, which waits for its turns."""

    def __init__(self, loop: Loop, config: Config, threads: int) -> None:
        context = get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_wait_and_loop, args=(loop, config, threads, theirs), daemon=True)
        self._name = loop.__name__
        self._process.start()
        theirs.close()
        with self._alive():
            self._ours.recv()  # it is built

    def turn(self) -> float:
        """Let it step for a turn; tokens a second of the counted interval.

        Raises:
            MTPError: it has ended.
        """
        with self._alive():
            self._ours.send(True)
            return float(self._ours.recv())

    def close(self) -> None:
        """End it: at once where it waits for a turn, by force where it does not."""
        with contextlib.suppress(OSError):
            self._ours.send(False)
        self._process.join(CLOSE_S)
        self._process.kill()
        self._process.join()
        self._ours.close()

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise MTPError(f"the benchmark's peer {self._name!r} ended by itself; its error is above") from None


@dataclass
class LiveTurns:
    """Takes the platform's events, and gives `peer` a turn after each of the platform's."""

    peer: Peer
    ours: list[float] = field(default_factory=list)
    """Tokens a second of the platform, a turn each; the first warms up."""
    theirs: list[float] = field(default_factory=list)
    _workers: list[int] = field(default_factory=list)
    _intervals: int = 0

    def take(self, event: "TrainEvent") -> None:
        """Called while the training goes on, which stands still until this returns.

        Raises:
            MTPError: a worker runs on another machine, where nothing can stop it; or the peer has ended.
        """
        from mtp.train import events

        if isinstance(event, events.WorkerReady):
            if event.node != socket.gethostname():
                raise MTPError(
                    f"the training's worker runs on {event.node}, and by turns only this machine can be measured; "
                    f"run the benchmark on a cluster of this machine alone"
                )
            self._workers.append(event.pid)
        if not isinstance(event, events.StepDone):
            return
        self._intervals += 1
        if self._intervals % INTERVALS:
            return
        with _stopped(self._workers):
            self.ours.append(event.metrics["train/tokens_per_s"])
            self.theirs.append(self.peer.turn())


def steps_of(turns: int, log_every: int) -> int:
    """Steps of a training that has so many turns."""
    return turns * INTERVALS * log_every


@contextlib.contextmanager
def _stopped(processes: list[int]) -> Iterator[None]:
    """Inside, they stand still; one that has ended does so anyway."""

    def tell(number: signal.Signals) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    tell(signal.SIGSTOP)
    try:
        yield
    finally:
        tell(signal.SIGCONT)


def _wait_and_loop(loop: Loop, config: Config, threads: int, ours: Connection) -> None:
    """The peer's process."""
    size, interval = config.train.batch_size * config.data.seq_len, config.train.log_every
    step, counted_from = 0, float("inf")

    def before_step() -> None:
        nonlocal step, counted_from
        place = step % (INTERVALS * interval)
        if place == (INTERVALS - 1) * interval:
            counted_from = time.perf_counter()
        if place == 0:
            ours.send(interval * size / (time.perf_counter() - counted_from))
            if not ours.recv():
                raise SystemExit
        step += 1

    loop(config, threads, before_step)
