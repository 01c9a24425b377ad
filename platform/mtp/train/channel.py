"""The way of events from the workers to the driver: a small Ray actor that one side fills and the other drains.

The actor also remembers why a run must not go on: an error that a retry cannot cure is told here before it is raised,
so that Ray Train's next attempt ends at once instead of failing the same way again.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtp.errors import MTPError
from mtp.train.events import OnProgress, TrainEvent

_POLL_S = 0.25


class _Channel:
    """State of the actor."""

    def __init__(self) -> None:
        self._events: list[TrainEvent] = []
        self._fatal: MTPError | None = None
        self._stop = False

    def push(self, event: TrainEvent) -> None:
        self._events.append(event)

    def drain(self) -> list[TrainEvent]:
        events, self._events = self._events, []
        return events

    def fail(self, error: MTPError) -> None:
        self._fatal = self._fatal or error

    def failure(self) -> MTPError | None:
        return self._fatal

    def ask_to_stop(self) -> None:
        self._stop = True

    def stop_asked(self) -> bool:
        return self._stop


def open_channel() -> Any:
    """A new channel's actor handle; it lives on the driver's node, since workers' nodes may be lost, and as long as
    the driver holds the handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(_Channel).remote()


def stop_poll(channel: Any) -> Callable[[], bool]:
    """Tells whether the driver was asked to stop, without waiting for the answer: a step late is soon enough."""
    pending = [channel.stop_asked.remote()]

    def asked() -> bool:
        ready, _ = ray.wait(pending, timeout=0)
        if not ready:
            return False
        pending[0] = channel.stop_asked.remote()
        return bool(ray.get(ready[0]))

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
            while not done.wait(_POLL_S):
                deliver()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=listen, name="train-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]
    deliver()
