"""The sweep job: many trainings over configuration keys, as child runs of one MLflow run, compared by one metric.

Trials are tasks of the cluster, as many at once as it has resources for. A trial that fails is reported and stops no
other; a sweep started again runs what is not finished.
"""

import time
from collections.abc import Callable
from typing import Any

import ray
from pydantic import BaseModel

from jobs import train
from jobs.entry import job_main
from mtp.config import Config
from mtp.data.storage import Location
from mtp.errors import MTPError
from mtp.registry import MetricLogger, ending_run, log_figures, log_table, start_run, tracking_uri
from mtp.sweep import SweepRecord, Trial, TrialRecord, plan_trials, sweep_figure
from mtp.train import RunFolder, TrainEvent
from mtp.train.preflight import uses_gpu

PARENT = "mlflow.parentRunId"
_STREAM_CPUS = 0.2
"""CPUs of a trial beside its workers': the row stream, and room for what else it starts."""

OnTrial = Callable[[TrialRecord, int, int], None]
"""Takes each trial as it ends, with how many have ended and how many there are."""


class SweepReport(BaseModel):
    """All trials, the best first, failed ones last."""

    name: str
    metric: str
    parent_run_id: str
    finished: int
    failed: int
    reused: int
    """Trials that an earlier run of the sweep had finished."""
    best: TrialRecord | None
    trials: list[TrialRecord]


def run(config: Config, on_trial: OnTrial | None = None) -> SweepReport:
    """Run the trials of `config.sweep` that are not finished.

    Raises:
        UsageError: there is nothing to sweep, or a trial's configuration is not valid; nothing was started.
        MTPError: no trial succeeded.
    """
    sweep, uri = config.sweep, tracking_uri(config.tracking)
    trials = plan_trials(config)
    folder = sweep_folder(config)
    record = SweepRecord.read(folder)
    reused = sum(record.finished(trial.name) for trial in trials)
    record.parent_run_id = start_run(
        config.tracking, sweep.name, {"sweep": sweep.model_dump(mode="json")}, resume=record.parent_run_id
    )
    record.write(folder)
    with ending_run(record.parent_run_id, uri=uri):
        waiting = [trial for trial in trials if not record.finished(trial.name)]
        run_trials(config, waiting, record, folder, on_trial or _print)
        report = summary(config, [record.trials[trial.name] for trial in trials], record.parent_run_id, reused)
        log_report(report, uri)
        if report.best is None:
            raise MTPError(
                f"all {len(trials)} trials of sweep {sweep.name!r} failed; the first: {report.trials[0].error}"
            )
    return report


def sweep_folder(config: Config) -> Location:
    """Where the sweep's record lies: beside its trials' runs."""
    runs = RunFolder.of(config)
    return Location.of(runs.storage_path) / f"{config.sweep.name}.sweep"


def run_trials(config: Config, waiting: list[Trial], record: SweepRecord, folder: Location, on_trial: OnTrial) -> None:
    """Run them, so many at a time, and keep each one's record when it ends."""
    at_once = config.sweep.max_concurrent or concurrency(config)
    task = ray.remote(num_cpus=0, max_retries=0)(run_trial)
    running: dict[Any, Trial] = {}
    queue, total = list(waiting), len(waiting)
    while queue or running:
        while queue and len(running) < at_once:
            trial = queue.pop(0)
            running[task.remote(trial, record.parent_run_id, config.sweep.metric)] = trial
        ended, _ = ray.wait(list(running))
        for reference in ended:
            trial = running.pop(reference)
            record.trials[trial.name] = outcome(reference, trial)
            record.write(folder)
            on_trial(record.trials[trial.name], total - len(queue) - len(running), total)


def concurrency(config: Config) -> int:
    """How many trials the cluster can hold at once."""
    workers, total = config.train.max_workers, ray.cluster_resources()
    fits = total.get("CPU", 0) / (workers * config.train.cpus_per_worker + _STREAM_CPUS)
    if uses_gpu(config):
        fits = min(fits, total["GPU"] / workers)
    return max(int(fits), 1)


def run_trial(trial: Trial, parent: str, metric: str) -> TrialRecord:
    """One trial, in a task: train, and say how it went; an error that a user can cause becomes part of the record."""
    started, config, run_id = time.perf_counter(), trial.config, None
    uri = tracking_uri(config.tracking)
    try:
        run_id = train.begin(config, {PARENT: parent})
        with ending_run(run_id, uri=uri):
            result = train.train(config, run_id, uri, _ignore)
        value = result.metrics.get(metric)
        if value is None:
            raise MTPError(f"the trial has no metric {metric!r} (sweep.metric); it has {', '.join(result.metrics)}")
    except MTPError as error:
        seconds = time.perf_counter() - started
        return TrialRecord(
            name=trial.name, values=trial.values, status="failed", run_id=run_id, error=str(error), seconds=seconds
        )
    return TrialRecord(
        name=trial.name,
        values=trial.values,
        status="finished",
        run_id=run_id,
        value=value,
        metrics=result.metrics,
        seconds=time.perf_counter() - started,
    )


def outcome(reference: Any, trial: Trial) -> TrialRecord:
    """The record of an ended task; a task that died is a failed trial."""
    try:
        record: TrialRecord = ray.get(reference)
        return record
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        return TrialRecord(name=trial.name, values=trial.values, status="failed", error=f"the trial died: {reason}")


def summary(config: Config, trials: list[TrialRecord], parent: str, reused: int) -> SweepReport:
    """Trials in order of the metric."""
    sign = 1 if config.sweep.goal == "min" else -1
    done = sorted((t for t in trials if t.value is not None), key=lambda trial: sign * float(trial.value or 0.0))
    failed = [trial for trial in trials if trial.value is None]
    return SweepReport(
        name=config.sweep.name,
        metric=config.sweep.metric,
        parent_run_id=parent,
        finished=len(done),
        failed=len(failed),
        reused=reused,
        best=done[0] if done else None,
        trials=[*done, *failed],
    )


def log_report(report: SweepReport, uri: str) -> None:
    """The table, the figure and the best value go to the parent run."""
    keys = list(report.trials[0].values)
    rows = [[t.name, t.status, t.value, *(t.values[key] for key in keys), t.run_id, t.error] for t in report.trials]
    columns = ["trial", "status", report.metric, *keys, "run", "error"]
    log_table(report.parent_run_id, "sweep.json", columns, rows, uri=uri)
    if report.best is None or report.best.value is None:
        return
    log_figures(report.parent_run_id, {"sweep.png": sweep_figure(report.trials, report.metric)}, uri=uri)
    with MetricLogger(uri, report.parent_run_id) as logger:
        logger.log(0, {f"best/{report.metric.split('/')[-1]}": report.best.value})


def _ignore(event: TrainEvent) -> None:
    """Trials side by side show no progress of their own; MLflow has it."""


def _print(trial: TrialRecord, done: int, total: int) -> None:
    shown = ", ".join(f"{key}={value}" for key, value in trial.values.items())
    result = f"{trial.value:.4f}" if trial.value is not None else f"failed: {trial.error}"
    print(f"trial {done} of {total}: {shown}: {result} ({trial.seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    job_main(run)
