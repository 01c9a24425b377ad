"""What a training run tells about itself while it goes on. Plain values, so that they cross process borders."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerReady:
    """One rank is about to train."""

    rank: int
    world: int
    node: str
    pid: int
    """Of the rank's process on that node."""
    backend: str
    deepspeed: str
    """DeepSpeed's version."""
    zero_stage: int
    dtype: str
    device: str
    threads: int
    rows_per_step: int
    """Rows of every global batch that Ray Data streams to this rank."""


@dataclass(frozen=True)
class Planned:
    """All ranks agreed on the steps to run."""

    first_step: int
    total_steps: int
    tokens_per_step: int
    parameters: int
    resumed_from: str | None
    """The checkpoint, if one was found."""
    step_seconds: float | None
    """Measured time of a step, if the total came from a budget in minutes."""


@dataclass(frozen=True)
class StepDone:
    """A logging interval ended with this step (counted from 1)."""

    step: int
    total_steps: int
    metrics: dict[str, float]
    """MLflow names to values: train/loss, train/loss_h1, ..."""
    eta_s: float


@dataclass(frozen=True)
class Evaluated:
    """Held-out rows were measured after `step` steps."""

    step: int
    metrics: dict[str, float]
    """eval/ppl, eval/loss_h1, ..."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint is whole: all its files are written, and its manifest."""

    step: int
    name: str


@dataclass(frozen=True)
class LossSpike:
    """The loss of a step leapt far above the `mean` of those before it, by so many standard deviations."""

    step: int
    loss: float
    mean: float
    sigmas: float


@dataclass(frozen=True)
class RolledBack:
    """Too many steps in a row moved nothing: the run goes back to its last checkpoint, and leaves out their batches."""

    step: int
    """At which that was decided."""
    to_step: int
    """Of the checkpoint; 0 if there is none."""
    passed_over: tuple[int, ...]
    """Steps (from 0) whose batches are left out from now on, those of earlier roll-backs too."""


@dataclass(frozen=True)
class Notice:
    """Something the user should know, in one sentence."""

    text: str


TrainEvent = WorkerReady | Planned | StepDone | Evaluated | Saved | LossSpike | RolledBack | Notice
OnProgress = Callable[[TrainEvent], None]
