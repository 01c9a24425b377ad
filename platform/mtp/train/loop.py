"""The training loop of one rank, from the first step (or the one after a checkpoint) to the last.

Everything that a step depends on is a function of its number: rows, learning rate, lambdas. Knows the order in which
things happen; each of them lives in a module of its own.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

import torch

from mtp.config import Config
from mtp.data.stream.row_batch import RowBatch
from mtp.errors import MTPError
from mtp.objective import lambdas_at
from mtp.train.collective import on_any_rank
from mtp.train.evaluation import Evaluator
from mtp.train.events import Evaluated, LossSpike, Notice, StepDone, TrainEvent
from mtp.train.gauges import Gauges
from mtp.train.manifest import TrainerState
from mtp.train.recorder import Recorder
from mtp.train.saver import CheckpointSaver
from mtp.train.schedule import lr_at
from mtp.train.spikes import SpikeWatch
from mtp.train.step import StepResult, StepRunner


class LoopEnd(Enum):
    """Why the loop ended."""

    DONE = auto()
    STOPPED = auto()
    """It was asked to, and has saved."""
    DIVERGED = auto()
    """Too many steps in a row moved nothing; `bad_steps` are their numbers."""


@dataclass(frozen=True)
class Crew:
    """Who does what in the loop of one rank."""

    runner: StepRunner
    evaluator: Evaluator
    saver: CheckpointSaver
    gauges: Gauges
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
        faults = config.train.faults
        self._spikes = SpikeWatch(faults.spike_sigma, faults.spike_window, state.recent_losses)
        self._saved_step = state.step
        self._held_out: tuple[int, dict[str, float]] = (-1, {})
        self.state = state
        self.bad_steps: list[int] = []
        """The last steps in a row (counted from 0) that moved nothing."""

    def run(self, batches: Iterator[RowBatch]) -> LoopEnd:
        """Train on `batches`, one a step; every rank ends alike."""
        while self.state.step < self.state.total_steps:
            batch = self._next(batches)
            if self.state.step in self.state.passed_over:
                self._pass_over(batch)
            else:
                self._step(batch)
            if len(self.bad_steps) >= self._config.train.faults.max_skipped_steps:
                self._crew.saver.wait()
                return LoopEnd.DIVERGED
            if self._due(self._config.train.evaluate_every):
                self.evaluate()
            if self._due(self._config.train.checkpoint.every_steps):
                self.save()
            if on_any_rank(self._crew.stop_asked(), self._device):
                self.save()
                self._crew.saver.wait()
                return LoopEnd.STOPPED
        self.evaluate()
        self.save()
        self._crew.saver.wait()
        return LoopEnd.DONE

    def evaluate(self) -> None:
        """Measure the held-out rows, once a step at most."""
        step = self.state.step
        if self._held_out[0] == step:
            return
        with self._aside():
            metrics = self._crew.evaluator.run()
        self._held_out = (step, metrics)
        if self._crew.recorder:
            self._crew.recorder.send(step, metrics)
        self._crew.tell(Evaluated(step, metrics))

    def save(self) -> None:
        """Begin a checkpoint of this step, once; never amid steps that moved nothing, so that the last is a good one.

        What is written is written in the background, and costs a full disk the checkpoint, not the run.
        """
        step = self.state.step
        if self._saved_step == step or self.bad_steps:
            return
        self._saved_step = step
        state = self.state.model_copy(update={"recent_losses": self._spikes.losses})
        with self._aside():
            self._crew.saver.save(state, self._held_out[1] if self._held_out[0] == step else {})

    def _next(self, batches: Iterator[RowBatch]) -> RowBatch:
        started = time.perf_counter()
        batch = next(batches, None)
        if self._crew.recorder:
            self._crew.recorder.clock.waited(time.perf_counter() - started)
        if batch is None:
            raise MTPError(f"the row stream ended before step {self.state.step}; please report this")
        return batch

    def _pass_over(self, batch: RowBatch) -> None:
        """Count a step whose batch a roll-back left out; nothing of the batch is used."""
        self._advance(batch)
        self._crew.tell(Notice(f"step {self.state.step} is passed over: a roll-back left its batch out"))
        self._record(*self._plan_of(self.state.step - 1))

    def _step(self, batch: RowBatch) -> None:
        lambdas, lr = self._plan_of(self.state.step)
        result = self._crew.runner.run(
            batch.tokens.to(self._device), batch.document.to(self._device), lambdas=lambdas, lr=lr
        )
        self._advance(batch, result.applied, result.tokens)
        if self._crew.recorder:
            self._crew.recorder.add(result)
        self._guard(result)
        self._record(lambdas, lr)

    def _plan_of(self, step: int) -> tuple[list[float], float]:
        """Lambdas and learning rate."""
        train, state = self._config.train, self.state
        lambdas = lambdas_at(
            self._config.objective.lambdas, self._config.model.n_future, step, state.total_steps, state.tokens
        )
        return lambdas, lr_at(train.lr_schedule, train.optimizer.lr, step, state.total_steps)

    def _advance(self, batch: RowBatch, applied: bool = False, tokens: int = 0) -> None:
        state = self.state
        self.state = state.model_copy(
            update={
                "step": state.step + 1,
                "applied_steps": state.applied_steps + applied,
                "rows": state.rows + self._config.train.batch_size,
                "tokens": state.tokens + tokens,
                "bad_shards": batch.left_out,
            }
        )

    def _record(self, lambdas: list[float], lr: float) -> None:
        """The figures of a logging interval, when one ends."""
        step, total = self.state.step, self.state.total_steps
        if not self._due(self._config.train.log_every) and step != total:
            return
        machines = self._crew.gauges.read()
        recorder = self._crew.recorder
        if recorder is None:
            return
        metrics = recorder.flush(step, lambdas, lr, skipped=step - self.state.applied_steps)
        recorder.send(step, {"train/bad_shards": float(len(self.state.bad_shards)), **machines})
        self._crew.tell(StepDone(step, total, metrics, recorder.seconds_left(total - step)))

    def _guard(self, result: StepResult) -> None:
        """Take note of a step that moved nothing, or whose loss leapt; every rank sees the same results."""
        step = self.state.step
        if not result.applied:
            self.bad_steps.append(step - 1)
            what = "gradient" if math.isfinite(result.loss) else "loss"
            self._crew.tell(Notice(f"step {step} was skipped: its {what} is not finite"))
            return
        self.bad_steps = []
        spike = self._spikes.look(result.loss)
        if spike is None:
            return
        if self._crew.recorder:
            self._crew.recorder.spiked()
        self._crew.tell(LossSpike(step, spike.loss, spike.mean, spike.sigmas))

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
