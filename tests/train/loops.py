"""A whole training loop on gloo ranks without Ray: real engine, evaluator, saver and recorder; rows from a formula."""

import dataclasses

import pyarrow.fs as fs
import torch

from mtp.config import build_config
from mtp.data.stream.row_batch import RowBatch
from mtp.train.evaluation import Evaluator
from mtp.train.gauges import Gauges
from mtp.train.loop import Crew, LoopEnd, TrainLoop
from mtp.train.manifest import TrainerState, newest_whole
from mtp.train.recorder import Recorder
from mtp.train.saver import CheckpointSaver
from tests.train.small import CPU, ROWS, SIZES, Training, rows

LOCAL = fs.LocalFileSystem()


class Metrics:
    """What a run logged, as {(step, name): value}."""

    def __init__(self):
        self.values = {}

    def log(self, step, metrics):
        self.values |= {(step, name): value for name, value in metrics.items()}


class Ledger:
    """A step runner that writes down which steps' rows were trained on."""

    def __init__(self, runner):
        self._runner = runner
        self.trained = []
        self.losses = {}
        self.current = None

    def run(self, tokens, document, lambdas, lr):
        result = self._runner.run(tokens, document, lambdas, lr)
        self.trained.append(self.current)
        self.losses[self.current] = result.loss
        return result


class Loop:
    """One rank's loop in the run folder `folder`, new or from its newest whole checkpoint."""

    def __init__(self, folder, data, *, steps=8, passed_over=(), stop_at=None, rows_of=rows, before=None, **train):
        """`before(loop, step)` is called as the loop asks for the rows of a step."""
        settings = {"num_workers": 2, "batch_size": ROWS, "steps": steps, "log_every": 1, "evaluate_rows": 4, **train}
        model = {**SIZES, "vocab_size": 300, "n_routed_experts": 4}
        self.config = build_config({"data": {"seq_len": 32, "vocab_size": 300}, "model": model, "train": settings})
        self.folder = str(folder)
        found = newest_whole(LOCAL, self.folder)
        torch.distributed.barrier()  # every rank has looked before one writes
        self.state = (found[1].state if found else first_state(steps)).model_copy(update={"passed_over": passed_over})
        checkpoint = f"{folder}/{found[0]}" if found else None
        training = Training(
            2, folder=checkpoint, wrote=2, model=model, applied=self.state.applied_steps, optimizer={"eps": 1e-4}
        )
        self.training, self.rank, self.stop_at = training, training.rank, stop_at
        self.rows_of, self.before = rows_of, before
        self.events, self.ledger, self.metrics = [], Ledger(training.runner), Metrics()
        self.loop = TrainLoop(self.config, self.crew(str(data / "validation")), self.state, CPU)

    def crew(self, validation):
        engine, train = self.training.engine, self.config.train
        objective = self.training.objective
        self.saver = CheckpointSaver(
            engine, self.rank, self.config.model, train, LOCAL, self.folder, self.events.append
        )
        return Crew(
            self.ledger,
            Evaluator(validation, train.evaluate_rows, engine, objective, CPU, self.rank, 2),
            self.saver,
            Gauges(CPU, self.rank, 0, self.rank == 0, 1),
            Recorder(self.metrics, 1.0, 1.0) if self.rank == 0 else None,
            self.events.append,
            lambda: self.loop.state.step == self.stop_at,
        )

    def batches(self):
        mine = slice(self.rank * ROWS // 2, (self.rank + 1) * ROWS // 2)
        for step in range(self.state.step, self.state.total_steps):
            if self.before:
                self.before(self, step)
            tokens, document = self.rows_of(step)
            self.ledger.current = step
            yield RowBatch(tokens[mine], document[mine], torch.zeros(ROWS // 2), torch.zeros(ROWS // 2))


def run(folder, data, settings):
    """A loop to its end, on every rank; what became of it, as values that cross a process border."""
    loop = Loop(folder, data, **settings)
    end = loop.loop.run(loop.batches())
    return Outcome(
        end,
        loop.loop.state,
        loop.loop.bad_steps,
        loop.ledger.trained,
        loop.ledger.losses,
        loop.events,
        loop.metrics.values,
    )


@dataclasses.dataclass
class Outcome:
    end: LoopEnd
    state: TrainerState
    bad_steps: list
    trained: list
    losses: dict
    events: list
    metrics: dict

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def first_state(steps):
    return TrainerState(
        step=0, applied_steps=0, total_steps=steps, rows=0, tokens=0, run_id="r", data_fingerprint="f",
        global_batch=ROWS, seed=0, world=2, zero_stage=1,
    )  # fmt: skip
