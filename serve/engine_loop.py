"""The engine in a thread of its own, and its outputs' way to the handlers.

The thread alone touches the engine: it takes commands between steps, and hands outputs over in one call, the first and
the last of a request at once, those between when it is time (pace.py). A handler that goes away (a client that
disconnects) cancels its request, which is gone before the next step. Knows nothing of HTTP or text.
"""

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from mtp.decode import Engine, Request, StepOutput
from serve.pace import Pace
from serve.serving_engine import EngineStoppedError
from serve.subscription import Subscription


class EngineLoop:
    """Runs an engine until `stop`."""

    def __init__(self, engine: Engine, on_step: Callable[[list[StepOutput]], None] = lambda outputs: None) -> None:
        self._engine = engine
        self._on_step = on_step
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._subscriptions: dict[int, Subscription] = {}
        self._pace = Pace()
        self._thread = threading.Thread(target=self._run, name="mtp-engine", daemon=True)
        self._failure: BaseException | None = None
        self._thread.start()

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""
        return self._engine.max_model_len

    @property
    def cache_use(self) -> float:
        """Share of the cache in use, 0 to 1."""
        return self._engine.cache_use

    @property
    def alive(self) -> bool:
        """Whether the engine works."""
        return self._thread.is_alive() and self._failure is None

    @asynccontextmanager
    async def submit(self, request: Request) -> AsyncIterator[AsyncGenerator[list[StepOutput], None]]:
        """The outputs of `request`; leaving the block early cancels it.

        Raises:
            UsageError: the engine refuses the request.
            EngineStoppedError: the engine's thread has ended.
        """
        if not self.alive:
            raise EngineStoppedError("the engine has stopped")
        subscription = Subscription(asyncio.get_running_loop())
        added: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._commands.put(lambda: self._add(request, subscription, added))
        try:
            await asyncio.wrap_future(added)
            yield subscription.outputs()
        finally:
            # The command runs after _add, whose number it then knows, whether or not this task heard of it.
            self._commands.put(lambda: self._drop(added))

    def stop(self) -> None:
        """End the thread after its current step."""
        self._commands.put(None)
        self._thread.join()

    def _add(self, request: Request, subscription: Subscription, added: "concurrent.futures.Future[int]") -> None:
        if not added.set_running_or_notify_cancel():
            return
        try:
            number = self._engine.add(request)
        except Exception as error:
            added.set_exception(error)
            return
        self._subscriptions[number] = subscription
        added.set_result(number)

    def _drop(self, added: "concurrent.futures.Future[int]") -> None:
        if added.cancelled() or added.exception() is not None:
            return
        number = added.result()
        if self._subscriptions.pop(number, None) is not None:
            self._engine.cancel(number)

    def _run(self) -> None:
        try:
            while self._obey():
                outputs = self._engine.step()
                self._deliver(outputs)
                self._on_step(outputs)
        except BaseException as error:
            self._failure = error
            self._send(self._subscriptions.values(), stopped=True)
            raise

    def _obey(self) -> bool:
        """Carry out waiting commands; without work, wait for some. False when told to stop."""
        while not self._commands.empty() or not self._engine.has_work:
            command = self._commands.get()
            if command is None:
                return False
            command()
        return True

    def _deliver(self, outputs: list[StepOutput]) -> None:
        """Take a step's outputs, and send those whose time has come."""
        streams = len(self._subscriptions)
        found: list[Subscription] = []
        for output in outputs:
            subscription = self._subscriptions.get(output.request_id)
            if subscription is not None:
                subscription.keep(output)
                found.append(subscription)
                if output.finish_reason is not None:
                    del self._subscriptions[output.request_id]
        urgent = [subscription for subscription in found if subscription.urgent]
        self._send([*urgent, *self._subscriptions.values()] if self._pace.is_due(streams) else urgent)

    @staticmethod
    def _send(subscriptions: Iterable[Subscription], *, stopped: bool = False) -> None:
        """Hand over what these keep: an event loop is woken once, however many of its handlers there are."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Subscription, list[StepOutput]]]] = {}
        for subscription in subscriptions:
            kept = subscription.take()
            if kept or stopped:
                by_loop.setdefault(subscription.loop, []).append((subscription, kept))
        for loop, pairs in by_loop.items():
            loop.call_soon_threadsafe(_deliver_all, pairs, stopped)


def _deliver_all(pairs: list[tuple[Subscription, list[StepOutput]]], stopped: bool) -> None:
    for subscription, kept in pairs:
        subscription.deliver(kept, stopped=stopped)
