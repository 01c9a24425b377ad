"""The training loop of one rank, from the first step (or the one after a checkpoint) to the last.

Everything that a step depends on is a function of its number: rows, learning rate, lambdas. Knows the order in which
things happen; each of them lives in a module of its own.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mtp.config import Config
from mtp.data.stream.row_stream import RowBatch
from mtp.errors import MTPError
from mtp.objective import lambdas_at
from mtp.train.collective import on_any_rank
from mtp.train.evaluation import Evaluator
from mtp.train.events import Evaluated, Notice, Saved, StepDone, TrainEvent
from mtp.train.manifest import TrainerState
from mtp.train.recorder import Recorder
from mtp.train.saver import CheckpointSaver
from mtp.train.schedule import lr_at
from mtp.train.step import StepResult, StepRunner


@dataclass(frozen=True)
class Crew:
    """Who does what in the loop of one rank."""

    runner: StepRunner
    evaluator: Evaluator
    saver: CheckpointSaver
    recorder: Recorder | None
    """On rank 0 only."""
    tell: Callable[[TrainEvent], None]
    """Sends an event to the driver; does nothing on other ranks than 0."""
    stop_asked: Callable[[], bool]
    """Whether the driver was asked to end; cheap, and only rank 0 asks."""


class TrainLoop:
    """Runs steps from `state` to its total."""

    def __init__(self, config: Config, crew: Crew, state: TrainerState, device: torch.device) -> None:
        self._config = config
        self._crew = crew
        self._device = device
        self._skipped_in_a_row = 0
        self._saved_step = state.step
        self._evaluated_step = -1
        self.state = state

    def run(self, batches: Iterator[RowBatch]) -> bool:
        """Train on `batches`, one a step; False if it was asked to stop early (after saving)."""
        while self.state.step < self.state.total_steps:
            batch = self._next(batches)
            self._step(batch)
            if self._due(self._config.train.evaluate_every):
                self.evaluate()
            if self._due(self._config.train.checkpoint.every_steps):
                self.save()
            if on_any_rank(self._crew.stop_asked(), self._device):
                self.save()
                return False
        self.save()
        self.evaluate()
        return True

    def evaluate(self) -> None:
        """Measure the held-out rows, once a step at most."""
        if self._evaluated_step == self.state.step:
            return
        self._evaluated_step = self.state.step
        with self._aside():
            metrics = self._crew.evaluator.run()
        if self._crew.recorder:
            self._crew.recorder.send(self.state.step, metrics)
        self._crew.tell(Evaluated(self.state.step, metrics))

    def save(self) -> None:
        """Write a checkpoint of this step, once; a full disk costs the checkpoint, not the run."""
        if self._saved_step == self.state.step:
            return
        self._saved_step = self.state.step
        with self._aside():
            try:
                name = self._crew.saver.save(self.state, {})
            except OSError as error:
                self._crew.tell(Notice(f"checkpoint after step {self.state.step} was not saved: {error}"))
                return
        self._crew.tell(Saved(self.state.step, name))

    def _next(self, batches: Iterator[RowBatch]) -> RowBatch:
        started = time.perf_counter()
        batch = next(batches, None)
        if self._crew.recorder:
            self._crew.recorder.clock.waited(time.perf_counter() - started)
        if batch is None:
            raise MTPError(f"the row stream ended before step {self.state.step}; please report this")
        return batch

    def _step(self, batch: RowBatch) -> None:
        state, train = self.state, self._config.train
        lambdas = lambdas_at(
            self._config.objective.lambdas, self._config.model.n_future, state.step, state.total_steps, state.tokens
        )
        lr = lr_at(train.lr_schedule, train.optimizer.lr, state.step, state.total_steps)
        result = self._crew.runner.run(
            batch.tokens.to(self._device), batch.document.to(self._device), lambdas=lambdas, lr=lr
        )
        self.state = state.model_copy(
            update={
                "step": state.step + 1,
                "applied_steps": state.applied_steps + result.applied,
                "rows": state.rows + train.batch_size,
                "tokens": state.tokens + result.tokens,
            }
        )
        self._record(result, lambdas, lr)
        self._guard(result)

    def _record(self, result: StepResult, lambdas: list[float], lr: float) -> None:
        recorder = self._crew.recorder
        if recorder is None:
            return
        recorder.add(result)
        step, total = self.state.step, self.state.total_steps
        if self._due(self._config.train.log_every) or step == total:
            metrics = recorder.flush(step, lambdas, lr)
            self._crew.tell(StepDone(step, total, metrics, recorder.seconds_left(total - step)))

    def _guard(self, result: StepResult) -> None:
        """Stop when too many steps in a row moved nothing; every rank sees the same results."""
        if result.applied:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        what = "loss" if not math.isfinite(result.loss) else "gradient"
        self._crew.tell(Notice(f"step {self.state.step} was skipped: its {what} is not finite"))
        limit = self._config.train.faults.max_skipped_steps
        if self._skipped_in_a_row >= limit:
            raise MTPError(
                f"training stopped at step {self.state.step}: {limit} steps in a row had a {what} that is not finite; "
                f"lower train.optimizer.lr or raise train.lr_schedule.warmup (train.faults.max_skipped_steps: {limit})"
            )

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _aside(self) -> "_Aside":
        return _Aside(self._crew.recorder)


class _Aside:
    """Keeps the time inside out of tokens per second."""

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._recorder:
            self._recorder.clock.set_aside(time.perf_counter() - self._started)
