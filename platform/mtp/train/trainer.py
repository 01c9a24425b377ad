"""Runs a training as one Ray Train job and gives back the model folder: the door to this package.

Started again with the same run name and storage path it goes on from the newest whole checkpoint, and does nothing
when the run is finished. Knows Ray Train; what a worker does lies in mtp.train.worker.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from mtp.config import Config
from mtp.errors import MTPError, StoppedError
from mtp.train.channel import listening, open_channel
from mtp.train.events import Notice, OnProgress
from mtp.train.manifest import newest_whole
from mtp.train.preflight import check_data, check_resources, repair_run_folder, uses_gpu
from mtp.train.run_folder import RunFolder, TrainResult, fixed_values
from mtp.train.sharding import check_sharding
from mtp.train.worker import WorkerJob, train_worker

_RESIZE_S = 30.0
"""Seconds between looks at whether an elastic group can grow."""
_GROUP_SHUTDOWN = "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"
_HEALTH_CHECK = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
_PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_LISTEN_S = 0.2
"""How soon a signal is heard."""


def fit(config: Config, *, run_id: str, tracking_uri: str, on_progress: OnProgress | None = None) -> TrainResult:
    """Train `config.model` on `config.data.path` until it is done.

    Args:
        config: the whole configuration; `data.path` holds the prepared splits `train` and `validation`.
        run_id: MLflow run that gets the metrics; to go on with a run, `RunFolder.record` names the one it began with.
        tracking_uri: of the MLflow server, as the workers reach it.
        on_progress: takes every event of `mtp.train.events`, from a thread of this process.

    Raises:
        UsageError: the configuration does not fit the data, the cluster, or the run that it would continue.
        StoppedError: training was asked to stop, and has saved.
        MTPError: training failed.
    """
    progress = on_progress or (lambda event: None)
    check_sharding(config)
    data = check_data(config)
    folder = RunFolder.of(config)
    finished = folder.begin(run_id, fixed_values(config, data.fingerprint))
    if finished is not None:
        progress(Notice(_already_finished(folder, finished)))
        return finished
    for note in repair_run_folder(folder):
        progress(Notice(note))
    _connect(config.train.faults.collective_timeout_s)
    use_gpu = uses_gpu(config)
    check_resources(config, use_gpu, lambda text: progress(Notice(text)))
    channel = open_channel()
    trainer = _trainer(config, folder, use_gpu, WorkerJob(config, run_id, tracking_uri, channel))
    with listening(channel, progress), _stopping_when_asked(channel):
        _run_until_it_stays(trainer, channel, folder)
    return _result(folder, channel)


def _trainer(config: Config, folder: RunFolder, use_gpu: bool, job: WorkerJob) -> ray.train.torch.TorchTrainer:
    train = config.train
    resources = {"CPU": train.cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=ray.train.torch.TorchConfig(
            backend="nccl" if use_gpu else "gloo", timeout_s=train.faults.collective_timeout_s
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.num_workers,
            use_gpu=use_gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=_RESIZE_S,
        ),
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=folder.storage_path,
            failure_config=ray.train.FailureConfig(max_failures=train.faults.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _run_until_it_stays(trainer: ray.train.torch.TorchTrainer, channel: Any, folder: RunFolder) -> None:
    """Run, and again after every roll-back: new workers start from the last checkpoint, as after a fault."""
    rollbacks = -1
    while rollbacks < len(folder.require_record().rollbacks):
        rollbacks = len(folder.require_record().rollbacks)
        _run(trainer, channel, folder)


def _run(trainer: ray.train.torch.TorchTrainer, channel: Any, folder: RunFolder) -> None:
    """Fit, and turn what failed into the sentence that its cause gave."""
    try:
        _fit_beside(trainer)
    except TrainingFailedError as error:
        raise _sentence(error, channel, folder) from error


def _fit_beside(trainer: ray.train.torch.TorchTrainer) -> None:
    """`trainer.fit()` in a thread, so that signals stay ours: in the main thread Ray Train would take Ctrl-C for good,
    and answer it with exit code 0.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=_LISTEN_S)
    if failures:
        raise failures[0]


def _sentence(error: TrainingFailedError, channel: Any, folder: RunFolder) -> MTPError:
    fatal = ray.get(channel.failure.remote())
    if fatal is not None:
        return fatal
    cause = str(error)
    if isinstance(error, WorkerGroupError):
        rank, failure = next(iter(error.worker_failures.items()))
        cause = f"rank {rank}: {str(failure).strip().splitlines()[-1]}"
    return MTPError(
        f"training run {folder.name!r} failed ({cause}); "
        f"the same command goes on from its newest checkpoint in {folder.storage_path}"
    )


def _result(folder: RunFolder, channel: Any) -> TrainResult:
    """What the workers wrote down; an attempt after a fatal error ends without an exception."""
    fatal = ray.get(channel.failure.remote())
    if fatal is not None:
        raise fatal
    result = folder.require_record().result
    if result is None:
        newest = newest_whole(folder.filesystem, folder.path)
        start = f"its checkpoint {newest[0]}" if newest else "its beginning, since nothing was saved yet"
        raise StoppedError(f"training run {folder.name!r} was asked to stop; the same command goes on from {start}")
    return result


def _already_finished(folder: RunFolder, result: TrainResult) -> str:
    return (
        f"run {folder.name!r} in {folder.storage_path} is finished ({result.steps} steps); nothing is trained. "
        f"Choose another train.run_name to train again"
    )


def _connect(hang_after_s: int) -> None:
    """Join the cluster of this process's environment, or start a private one."""
    os.environ.setdefault(_GROUP_SHUTDOWN, "2")  # or survivors of a lost worker wait half a minute for it
    os.environ[_HEALTH_CHECK] = str(hang_after_s)
    os.environ.setdefault(_PREEMPTION_WATCHER, "0")  # a process that polls for what SIGTERM tells us
    if not ray.is_initialized():
        ray.init(logging_level="warning", log_to_driver=False)
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _stopping_when_asked(channel: Any) -> Iterator[None]:
    """Inside, SIGTERM or Ctrl-C lets the workers finish their step, save and end; a second one does as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: Any) -> None:
        channel.ask_to_stop.remote()
        channel.push.remote(Notice("asked to stop: the step that runs is finished and saved first; again ends at once"))
        _restore(before)

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
