"""The way of events from the workers to the driver: a small Ray actor that one side fills and the other drains.

Whoever wants something of it asks once and is answered when there is something: to say "nothing yet" at every step and
four times a second took one per cent of a core from those that train.

The actor also remembers why a run must not go on: an error that a retry cannot cure is told here before it is raised,
so that Ray Train's next attempt ends at once instead of failing the same way again.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtp.errors import MTPError
from mtp.train.events import OnProgress, TrainEvent

_PAUSE_S = 0.25
"""Between two deliveries: events that come in quick succession travel together."""


class _Channel:
    """State of the actor. Its methods take turns between their awaits, and begin in the order of a caller's calls."""

    def __init__(self) -> None:
        self._events: list[TrainEvent] = []
        self._awake = asyncio.Event()
        self._fatal: MTPError | None = None
        self._stop = asyncio.Event()

    async def push(self, event: TrainEvent) -> None:
        self._events.append(event)
        self._awake.set()

    async def wake(self) -> None:
        """Let the next `drain` return at once."""
        self._awake.set()

    async def drain(self) -> list[TrainEvent]:
        """What was pushed since the last call, as soon as there is something."""
        await self._awake.wait()
        self._awake.clear()
        events, self._events = self._events, []
        return events

    async def fail(self, error: MTPError) -> None:
        self._fatal = self._fatal or error

    async def failure(self) -> MTPError | None:
        return self._fatal

    async def ask_to_stop(self) -> None:
        self._stop.set()

    async def stop_asked(self) -> None:
        """Returns when a stop is asked for."""
        await self._stop.wait()


def open_channel() -> Any:
    """A new channel's actor handle; it lives on the driver's node, since workers' nodes may be lost, and as long as
    the driver holds the handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(_Channel).remote()


def stop_poll(channel: Any) -> Callable[[], bool]:
    """Tells whether the driver was asked to stop, without waiting for an answer: a step late is soon enough."""
    answer = channel.stop_asked.remote()

    def asked() -> bool:
        ready, _ = ray.wait([answer], timeout=0)
        ray.get(ready)  # raises where the channel is lost
        return bool(ready)

    return asked


@contextmanager
def listening(channel: Any, on_progress: OnProgress) -> Iterator[None]:
    """Inside, a thread hands every event to `on_progress`, in order; what is left at the end is handed over too.

    An exception of `on_progress` ends the listening, and is raised at the end.
    """
    done = threading.Event()
    failures: list[BaseException] = []

    def deliver() -> None:
        for event in ray.get(channel.drain.remote()):
            on_progress(event)

    def listen() -> None:
        try:
            while not done.wait(_PAUSE_S):
                deliver()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=listen, name="train-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        channel.wake.remote()
        thread.join()
    if failures:
        raise failures[0]
    channel.wake.remote()
    deliver()
