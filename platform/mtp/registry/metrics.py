"""Metrics of a run in progress: training hands them over and goes on, whatever the registry does.

A thread of its own sends them in batches. While the registry does not answer they go to disk (spool.py) and are sent
when it is back, by this process or by the next one that logs to the run.
"""

import queue
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mtp.registry.connection import client, registry_errors
from mtp.registry.spool import Point, Spool, spools

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000
"""MLflow's limit of metrics in one request."""


class MetricLogger:
    """Logs to run `run_id`: `log` never waits and never fails; `close` waits a little for the last batch.

    With `resumed`, steps that the run already has are not logged again: a run that went back to its last checkpoint
    repeats them with the same values.
    """

    def __init__(self, uri: str, run_id: str, *, resumed: bool = False, interval_s: float = 1.0) -> None:
        self._uri = uri
        self._run_id = run_id
        self._resumed = resumed
        self._interval_s = interval_s
        self._spool = Spool(uri, run_id)
        self._queue: queue.SimpleQueue[Point] = queue.SimpleQueue()
        self._last_steps: dict[str, int] = {}
        self._spooled_steps = {point.name: point.step for point in self._spool.read()} if resumed else {}
        self._client: MlflowClient | None = None
        self._failures = 0
        self._next_try = 0.0
        self._tried = threading.Event()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._flushed = threading.Condition()
        self._rounds = 0
        self._thread = threading.Thread(target=self._run, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the registry was first spoken to, or did not answer: whoever times what comes next would
        otherwise time the import of MLflow beside it.
        """
        self._tried.wait(timeout_s)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand over the values of one step."""
        now = time.time_ns() // 1_000_000
        for name, value in metrics.items():
            self._queue.put(Point(name, float(value), now, step))

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was logged has been sent; False if it lies on disk instead (or time ran out)."""
        deadline = time.monotonic() + timeout_s
        with self._flushed:
            wanted = self._rounds + 2  # the round in progress may have drained the queue before the last `log`
            while self._rounds < wanted and self._thread.is_alive() and time.monotonic() < deadline:
                self._next_try = 0.0
                self._wake.set()
                self._flushed.wait(timeout=0.1)
        return self._queue.empty() and not self._spool

    def close(self, timeout_s: float = 10.0) -> bool:
        """Flush and end the thread; what could not be sent stays on disk, and a line on stderr says so."""
        sent = self.flush(timeout_s)
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=timeout_s)
        if not sent:
            note = f"the registry at {self._uri} does not answer: metrics of run {self._run_id} wait in"
            print(f"{note} {self._spool.path} and are sent when the run is next logged to", file=sys.stderr)
        return sent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        self._sends([])  # connects
        self._tried.set()
        while not self._closing.is_set():
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self._round()
            with self._flushed:
                self._rounds += 1
                self._flushed.notify_all()
        self._round()

    def _round(self) -> None:
        """Send what has come in and what lies on disk; on failure all of it lies on disk."""
        fresh = self._drain()
        if not fresh and not self._spool:
            return
        with self._spool.locked():
            if time.monotonic() >= self._next_try and self._sends(self._spool.read() + fresh):
                self._spool.clear()
            else:
                self._spool.append(fresh)

    def _drain(self) -> list[Point]:
        """What `log` has handed over, without what a resumed run's earlier process left on disk already."""
        found: list[Point] = []
        while True:
            try:
                point = self._queue.get_nowait()
            except queue.Empty:
                return found
            if point.step > self._spooled_steps.get(point.name, -1):
                found.append(point)

    def _sends(self, points: list[Point]) -> bool:
        try:
            if self._client is None:
                self._client = client(self._uri)
            wanted = [point for point in points if point.step > self._last_step(point.name)]
            _log_batches(self._client, self._run_id, wanted)
        except Exception as error:  # whatever the client raises, training must not notice
            self._failed(error)
            return False
        self._failures = 0
        return True

    def _last_step(self, name: str) -> int:
        """The last step of this metric that the run had when we took it up; -1 for a new run."""
        if not self._resumed or self._client is None:
            return -1
        if name not in self._last_steps:
            history = self._client.get_metric_history(self._run_id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]

    def _failed(self, error: Exception) -> None:
        """Wait longer after each failure, up to half a minute; say so once."""
        if self._failures == 0:
            print(f"metrics of run {self._run_id} go to disk for now: {error}", file=sys.stderr)
        self._failures += 1
        self._client = None
        self._next_try = time.monotonic() + min(30.0, 2.0**self._failures)


def send_spooled(uri: str) -> int:
    """Send what earlier processes could not, of any run; returns the number of points.

    Raises:
        MTPError: the registry does not answer, or refuses; what was not sent stays on disk.
    """
    sent = 0
    for spool in spools(uri):
        with spool.locked():
            points = spool.read()
            mlflow = client(uri)
            with registry_errors(uri):
                _log_batches(mlflow, spool.run_id, points)
            spool.clear()
        sent += len(points)
    return sent


def _log_batches(mlflow: "MlflowClient", run_id: str, points: list[Point]) -> None:
    from mlflow.entities import Metric

    for start in range(0, len(points), _BATCH):
        batch = points[start : start + _BATCH]
        metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in batch]
        mlflow.log_batch(run_id, metrics=metrics)
