"""A function in one worker of Ray Train with nothing of ours around it: what a benchmark compares the platform with."""

import tempfile
from collections.abc import Callable
from typing import Any

import ray.train
import ray.train.torch


def run_alone(function: Callable[[dict[str, Any]], None], settings: dict[str, Any], cpus: float) -> None:
    """Call `function(settings)` in a worker on the CPU that has `cpus` of Ray's CPUs; the process is connected to Ray.

    Raises:
        ray.train.v2.api.exceptions.TrainingFailedError: the function raised.
    """
    with tempfile.TemporaryDirectory(prefix="mtp-lone-") as folder:
        ray.train.torch.TorchTrainer(
            function,
            train_loop_config=settings,
            scaling_config=ray.train.ScalingConfig(num_workers=1, use_gpu=False, resources_per_worker={"CPU": cpus}),
            run_config=ray.train.RunConfig(
                storage_path=folder, logging_config=ray.train.LoggingConfig(log_level="ERROR")
            ),
        ).fit()
