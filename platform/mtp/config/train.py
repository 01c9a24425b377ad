"""The training job: batch, optimizer, schedule, sharding, checkpoints."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mtp.config.base import Section


class OptimizerConfig(Section):
    """AdamW; norms and biases get no weight decay."""

    lr: PositiveFloat = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    grad_clip: PositiveFloat = 1.0


class LRScheduleConfig(Section):
    """Linear warm-up, then decay to `final` times the peak."""

    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of the training."""
    decay: Literal["cosine", "linear", "none"] = "cosine"
    final: float = Field(default=0.1, ge=0, le=1)


class CheckpointConfig(Section):
    """When training saves, and how many checkpoints it keeps."""

    every_steps: PositiveInt = 200
    keep: PositiveInt = 2
    """The newest so many stay; older ones go when a newer one is whole."""
    keep_best: bool = True
    """Beside them, the one with the lowest held-out loss of those saved at a step that was evaluated."""


class FaultConfig(Section):
    """What training survives by itself, and when it gives up."""

    max_failures: NonNegativeInt = 3
    """Worker losses after which the run goes on from its newest complete checkpoint; one more ends it."""
    max_skipped_steps: PositiveInt = 5
    """Steps in a row with a loss or gradient that is not finite, before the run goes back to its last checkpoint and
    leaves out their batches."""
    max_rollbacks: NonNegativeInt = 2
    """How often a run may go back so; then it stops."""
    spike_sigma: PositiveFloat = 6.0
    """A loss so many standard deviations above the mean of the steps before it is flagged as a spike."""
    spike_window: int = Field(default=128, ge=8)
    """Steps that mean and deviation are taken over."""
    collective_timeout_s: PositiveInt = 600
    """A rank that answers no collective and no health check for so long counts as hung and is replaced."""


class OffloadConfig(Section):
    """What leaves the GPU's memory for the host's."""

    optimizer: Literal["none", "cpu"] = "none"
    """cpu: Adam's moments and the fp32 weights; ZeRO 1, 2 and 3."""
    parameters: Literal["none", "cpu"] = "none"
    """cpu: the weights too, gathered as they are used; ZeRO 3."""


class TrainConfig(Section):
    """One Ray Train run of DeepSpeed workers."""

    run_name: str = "train"
    """Names the run's folder in `storage_path`; the same name resumes the run."""
    storage_path: str | None = None
    """Folder of checkpoints; unset: `runs` in the state folder (MTP_HOME)."""
    num_workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 2
    """Workers, or [min, max]: as many of them as the cluster has room for, from one moment to the next."""
    cpus_per_worker: PositiveFloat = 0.5
    threads_per_worker: PositiveInt | None = None
    """Of PyTorch, on CPUs; unset: the node's cores are shared among its workers."""
    use_gpu: bool | None = None
    """Unset: if the cluster has GPUs."""
    batch_size: PositiveInt = 16
    """Rows in the global batch of one optimizer step."""
    micro_batch_size: PositiveInt | None = None
    """Rows in one forward of one worker; unset: all its rows of the global batch."""
    steps: PositiveInt | None = 1000
    minutes: PositiveFloat | None = None
    """Instead of steps: the step time of the first steps tells how many fit."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed splits over the workers: 0 nothing, 1 the optimizer, 2 gradients too, 3 weights too. One
    fp32 worker without offload runs 0."""
    expert_parallel: PositiveInt = 1
    """Workers that share one set of routed experts, each holding its part (DeepSpeed AutoEP)."""
    offload: OffloadConfig = OffloadConfig()
    document_mask: bool = True
    """Attention stays inside a document of a packed row; false: it sees the whole row before it."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again in the backward instead of keeping them."""
    compile: bool = False
    """Compile each layer with torch.compile before training starts."""
    seed: int = 0
    log_every: PositiveInt = 10
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations on held-out rows; 0: only at the end."""
    evaluate_rows: PositiveInt = 64
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LRScheduleConfig = LRScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    faults: FaultConfig = FaultConfig()

    @property
    def min_workers(self) -> int:
        """The fewest workers that train."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """The most."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    def stage_used(self, workers: int) -> int:
        """The ZeRO stage that `workers` train with: one alone has nothing to split, and runs stage 0.

        ZeRO's copies of gradients and weights would cost it a twelfth of a small model's step. In bf16 they hold the
        fp32 weights, and offloading needs them anyway.
        """
        alone = workers == 1 and self.dtype == "float32" and self.offload == OffloadConfig()
        return 0 if alone else self.zero_stage

    def rows_per_forward(self, workers: int) -> int:
        """Rows in one forward of one of `workers`."""
        return self.micro_batch_size or self.batch_size // workers

    def accumulation(self, workers: int) -> int:
        """Micro-batches that one of `workers` runs in an optimizer step."""
        return self.batch_size // (workers * self.rows_per_forward(workers))

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("set exactly one of steps and minutes (the other to null)")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"num_workers is [min, max], but {self.min_workers} is more than {self.max_workers}")
        for workers in range(self.min_workers, self.max_workers + 1):
            _divides(self.batch_size, workers, self.micro_batch_size, self.min_workers < self.max_workers)
        return self


def _divides(batch: int, workers: int, micro: int | None, elastic: bool) -> None:
    """See that `workers` can share the batch.

    Raises:
        ValueError: they cannot.
    """
    hint = "; every number of workers in between may occur" if elastic else ""
    if batch % workers:
        raise ValueError(f"batch_size ({batch}) does not divide by num_workers ({workers}){hint}")
    if micro and batch % (workers * micro):
        raise ValueError(
            f"batch_size ({batch}) does not divide by num_workers x micro_batch_size ({workers} x {micro}){hint}"
        )
