"""What every Ray Train worker runs: builds its part of the training, new or from a checkpoint, runs it, ends it.

Ray Train has made the process group. Reads like a table of contents; each part lives in a module of its own.
"""

import os
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from mtp.config import Config
from mtp.data import TrainingData, open_training_data
from mtp.data.stream.row_source import RankSlice
from mtp.errors import MTPError
from mtp.model import MTPModel
from mtp.model.accounting import flops_per_token
from mtp.objective import MTPObjective
from mtp.train.acceleration import accelerate
from mtp.train.budget import step_seconds, steps_within
from mtp.train.channel import stop_poll
from mtp.train.collective import from_rank_zero, gathered, summed
from mtp.train.engine import Engine
from mtp.train.evaluation import Evaluator
from mtp.train.events import Notice, Planned, TrainEvent, WorkerReady
from mtp.train.experts import ExpertBalance
from mtp.train.feed import Feed
from mtp.train.final_model import write_final_model
from mtp.train.gauges import Gauges
from mtp.train.loop import Crew, LoopEnd, TrainLoop
from mtp.train.loss_module import LossModule
from mtp.train.manifest import Manifest, TrainerState, newest_whole
from mtp.train.process import pause_less, quiet, seed_everything, share_cores
from mtp.train.published import Published
from mtp.train.recorder import Recorder
from mtp.train.rollback import require_leave, roll_back
from mtp.train.run_folder import Rollback, RunFolder, TrainResult
from mtp.train.saver import CheckpointSaver
from mtp.train.state import SavedState
from mtp.train.step import StepRunner
from mtp.train.throughput import measured_peak
from mtp.train.token_weights import token_weights


@dataclass(frozen=True)
class WorkerJob:
    """What the driver hands to every worker."""

    config: Config
    run_id: str
    tracking_uri: str
    channel: Any
    """Actor handle of `mtp.train.channel`."""


def train_worker(settings: dict[str, WorkerJob]) -> None:
    """Ray Train's `train_loop_per_worker`."""
    job = settings["job"]
    if ray.get(job.channel.failure.remote()) is not None:
        return  # an earlier attempt met an error that no retry cures; the driver reports it
    try:
        _Worker(job).run()
    except MTPError as error:
        ray.get(job.channel.fail.remote(error))
        raise


class _Worker:
    """One rank."""

    def __init__(self, job: WorkerJob) -> None:
        self.job = job
        self.config = job.config
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.folder = RunFolder.of(self.config)
        self.step_seconds: float | None = None
        quiet()
        self.threads = share_cores(context.get_local_world_size(), self.device, self.config.train.threads_per_worker)

    def run(self) -> None:
        """The whole life of a rank."""
        started = time.perf_counter()
        data = open_training_data(self.config.data)
        self._find_checkpoint()
        state = self._first_state(data)
        budgeted = not state.total_steps
        feed = None if budgeted else self._feed(data, state)
        self._build(data)
        self._introduce()
        if feed is None:
            state = self._budgeted(data, state)
            feed = self._feed(data, state)
        self._plan(state)
        batches = feed.batches(lambda text: self._tell(Notice(text)), self.device)
        loop = TrainLoop(self.config, self._crew(), state, self.device)
        pause_less()
        end = loop.run(batches)
        if end is LoopEnd.DIVERGED:
            self._roll_back(loop)
        if end is LoopEnd.DONE:
            self._finish(loop, data, time.perf_counter() - started)

    def _find_checkpoint(self) -> None:
        """Rank 0 looks and checks; all ranks take its word."""
        found = None
        if self.rank == 0:
            newest = newest_whole(self.folder.filesystem, self.folder.path)
            found = newest, self.folder.require_record().rollbacks
        self.found: tuple[str, Manifest] | None
        self.rollbacks: tuple[Rollback, ...]
        self.found, self.rollbacks = from_rank_zero(found)
        self.saved: SavedState | None = None
        if self.found:
            name, manifest = self.found
            folder = f"{self.folder.path}/{name}"
            self.saved = SavedState(self.folder.filesystem, folder, manifest.state.world)

    def _build(self, data: TrainingData) -> None:
        """Model, loss, engine, experts; with the checkpoint's tensors in them if there is one."""
        config = self.config
        seed_everything(config.train.seed)
        self.model = MTPModel(config.model)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.flops_per_token = flops_per_token(config.model, config.data.seq_len)
        self.objective = MTPObjective(config.objective, config.model.n_future, token_weights(config, data))
        accelerate(self.model, config.train)
        module = LossModule(self.model, self.objective, document_mask=config.train.document_mask)
        if self.saved:
            self.saved.load_weights(module)
        self.experts = ExpertBalance(module, config.objective.bias_update_speed)
        self.engine = Engine(module, config.train, self.device, config.train.accumulation(self.world))
        self.experts.engine_made()
        rows = config.train.rows_per_forward(self.world)
        self.runner = StepRunner(self.engine, self.objective, self.experts, self.device, rows)
        if self.found and self.saved:
            self.saved.load_optimizer(self.engine, self.found[1].state.applied_steps)
            self.saved.load_random_state(self.rank)
            self.saved = None

    def _introduce(self) -> None:
        train = self.config.train
        self._send(
            WorkerReady(
                rank=self.rank,
                world=self.world,
                node=socket.gethostname(),
                pid=os.getpid(),
                backend=self.engine.backend,
                deepspeed=self.engine.version,
                zero_stage=self.engine.zero_stage,
                dtype=train.dtype,
                device=str(self.device),
                threads=self.threads,
                rows_per_step=train.batch_size // self.world,
            )
        )

    def _first_state(self, data: TrainingData) -> TrainerState:
        """Where to begin; a total of 0 steps means that the budget in minutes is still to be turned into steps."""
        train = self.config.train
        left_out = tuple(sorted(step for rollback in self.rollbacks for step in rollback.passed_over))
        if self.found:
            now = {"world": self.world, "zero_stage": train.zero_stage, "passed_over": left_out}
            return self.found[1].state.model_copy(update=now)
        return TrainerState(
            step=0,
            applied_steps=0,
            total_steps=train.steps or 0,
            rows=0,
            tokens=0,
            run_id=self.job.run_id,
            data_fingerprint=data.fingerprint,
            global_batch=train.batch_size,
            seed=train.seed,
            world=self.world,
            zero_stage=train.zero_stage,
            passed_over=left_out,
        )

    def _budgeted(self, data: TrainingData, state: TrainerState) -> TrainerState:
        """The state with the number of steps that fit into the budget; rank 0's clock decides."""
        minutes = self.config.train.minutes
        assert minutes is not None  # the configuration has exactly one of steps and minutes
        self.step_seconds = from_rank_zero(self._trial_seconds(data))
        return state.model_copy(update={"total_steps": steps_within(minutes, self.step_seconds)})

    def _trial_seconds(self, data: TrainingData) -> float:
        """Time of a step, by steps at learning rate 0 whose every trace is wiped."""
        mine = self.config.train.batch_size // self.world
        rows = data.first_rows(self.config.data.seed, mine)
        tokens, document = (part.to(self.device) for part in rows)
        lambdas = [1.0] * self.config.model.n_future
        self.experts.frozen = True
        seconds = step_seconds(partial(self.runner.run, tokens, document, lambdas=lambdas, lr=0.0))
        self.experts.frozen = False
        self.engine.state.reset_optimizer(0)
        return seconds

    def _feed(self, data: TrainingData, state: TrainerState) -> Feed:
        """The rows of the steps that are left, being read from now on."""
        return Feed(self.config.data, data, state, RankSlice(self.config.train.batch_size, self.rank, self.world))

    def _plan(self, state: TrainerState) -> None:
        self._tell(
            Planned(
                first_step=state.step,
                total_steps=state.total_steps,
                tokens_per_step=self.config.train.batch_size * self.config.data.seq_len,
                parameters=self.parameters,
                resumed_from=self.found[0] if self.found else None,
                step_seconds=self.step_seconds,
            )
        )

    def _crew(self) -> Crew:
        config = self.config
        peak = measured_peak(self.device, getattr(torch, config.train.dtype))
        peak = float(summed(torch.tensor([peak], dtype=torch.float64, device=self.device)).item())
        evaluator = Evaluator(
            f"{config.data.path}/validation",
            config.train.evaluate_rows,
            self.engine,
            self.objective,
            self.device,
            self.rank,
            config.train.rows_per_forward(self.world),
        )
        self.recorder = self._recorder(peak) if self.rank == 0 else None
        saver = CheckpointSaver(
            self.engine,
            self.rank,
            config.model,
            config.train,
            self.folder.filesystem,
            self.folder.path,
            self._tell,
            settle=self.logger.flush if self.rank == 0 else lambda: None,
        )
        stop_asked = stop_poll(self.job.channel) if self.rank == 0 else lambda: False
        return Crew(self.runner, evaluator, saver, self._gauges(), self.recorder, self._tell, stop_asked)

    def _recorder(self, peak: float) -> Recorder:
        from mtp.registry import MetricLogger  # mlflow takes seconds to import, and one rank needs it

        # An earlier attempt may have logged some steps, even one that left no checkpoint.
        self.logger = MetricLogger(self.job.tracking_uri, self.job.run_id, resumed=True)
        self.logger.ready()
        sink = Published(self.logger, self.config.train.run_name)
        return Recorder(sink, self.flops_per_token, peak)

    def _gauges(self) -> Gauges:
        context = ray.train.get_context()
        nodes = 1 + int(max(gathered(context.get_node_rank())))
        return Gauges(self.device, self.rank, context.get_node_rank(), context.get_local_rank() == 0, nodes)

    def _roll_back(self, loop: TrainLoop) -> None:
        """Write down which batches to leave out; the driver then starts the workers again, from the last checkpoint.

        Raises:
            MTPError: the run has gone back as often as it may.
        """
        step = loop.state.step
        require_leave(self.config.train.faults, len(self.rollbacks), step)
        if self.rank == 0:
            self._send(roll_back(self.folder, step, loop.bad_steps))
            self.logger.close()

    def _finish(self, loop: TrainLoop, data: TrainingData, seconds: float) -> None:
        """Write the model folder, and mark the run as finished.

        Raises:
            MTPError: the folder could not be written.
        """
        try:
            model_dir = write_final_model(self.engine, self.config, data.tokenizer, self.folder, self.rank)
        except OSError as error:
            raise MTPError(
                f"the trained model could not be written to {self.folder.path}: {error.strerror or error}; "
                f"make room, and the same command goes on from the last checkpoint"
            ) from error
        if self.rank != 0 or self.recorder is None:
            return
        self.logger.close()
        result = TrainResult(
            model_dir=model_dir,
            steps=loop.state.step,
            tokens=loop.state.tokens,
            skipped_steps=loop.state.step - loop.state.applied_steps,
            seconds=seconds,
            metrics=self.recorder.latest,
        )
        self.folder.finish(result)

    def _send(self, event: TrainEvent) -> None:
        self.job.channel.push.remote(event)

    def _tell(self, event: TrainEvent) -> None:
        """What happens to all ranks alike is told by one."""
        if self.rank == 0:
            self._send(event)
