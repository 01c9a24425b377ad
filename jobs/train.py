"""The train job: a prepared data set to a trained, measured and registered model, as one MLflow run.

Started again it goes on: with the same MLflow run, from the newest checkpoint, and registers nothing twice.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from jobs.entry import job_main
from jobs.evaluate import measure, record
from mtp.config import Config
from mtp.data import open_training_data
from mtp.evaluate import EvaluationReport
from mtp.evaluate.figures import agreement_figure, loss_figure
from mtp.evaluate.probing import leave_probe
from mtp.model.accounting import parameter_counts
from mtp.registry import (
    DatasetRecord,
    ModelCard,
    ending_run,
    log_figures,
    log_json,
    metric_history,
    register_model,
    start_run,
    tracking_uri,
)
from mtp.train import OnProgress, RunFolder, TrainResult, fit
from mtp.train.display import training_display


class TrainReport(BaseModel):
    """What a training left behind."""

    model_config = ConfigDict(protected_namespaces=())
    run_id: str
    run_name: str
    model_name: str
    version: int
    """Of the registered model; it has the alias `candidate`."""
    model_dir: str
    steps: int
    tokens: int
    skipped_steps: int
    perplexity: float
    agreement: list[float]
    evaluation: EvaluationReport


def run(config: Config, on_progress: OnProgress | None = None) -> TrainReport:
    """Train, measure, register; `on_progress` takes the events of training instead of the terminal.

    Raises:
        UsageError: the configuration does not fit the data, the cluster, or the run that it would continue.
        MTPError: training failed or was stopped, or the registry does not answer.
    """
    uri = tracking_uri(config.tracking)
    run_id = begin(config)
    with ending_run(run_id, uri=uri):
        result = train(config, run_id, uri, on_progress)
        evaluation = measure(config, partial(local_model, config, result))
        record(run_id, uri, evaluation, step=result.steps, taken=result.metrics)
        draw(run_id, uri)
        version = register(config, run_id, uri, result, evaluation)
    return TrainReport(
        run_id=run_id,
        run_name=config.train.run_name,
        model_name=config.tracking.model_name,
        version=version,
        model_dir=result.model_dir,
        steps=result.steps,
        tokens=result.tokens,
        skipped_steps=result.skipped_steps,
        perplexity=evaluation.perplexity,
        agreement=evaluation.agreement,
        evaluation=evaluation,
    )


def begin(config: Config, tags: Mapping[str, str] | None = None) -> str:
    """The MLflow run: a new one, or the one that an earlier attempt of this run began."""
    data = open_training_data(config.data)
    dataset = DatasetRecord(
        path=", ".join(source.location.url for source in data.sources),
        fingerprint=data.fingerprint,
        profile=data.profile(),
    )
    earlier = RunFolder.of(config).record()
    tree = config.model_dump(mode="json")
    run_id = start_run(
        config.tracking,
        config.train.run_name,
        tree,
        dataset=dataset,
        tags=tags,
        resume=earlier.run_id if earlier else None,
    )
    log_json(run_id, "config.json", tree, uri=tracking_uri(config.tracking))
    return run_id


def train(config: Config, run_id: str, uri: str, on_progress: OnProgress | None) -> TrainResult:
    """Train, and show it where nobody else does."""
    if on_progress is not None:
        return fit(config, run_id=run_id, tracking_uri=uri, on_progress=on_progress)
    with training_display(Console(stderr=True)) as show:
        return fit(config, run_id=run_id, tracking_uri=uri, on_progress=show)


def local_model(config: Config, result: TrainResult) -> Path:
    """The trained model's folder on the machine that calls this."""
    return RunFolder.of(config).local_model(result)


def draw(run_id: str, uri: str) -> None:
    """Log the figures of the whole run, earlier attempts included."""
    history = metric_history(run_id, uri=uri)
    figures = {"loss_per_horizon.png": loss_figure(history)}
    if any("agreement_h" in name for name in history):
        figures["agreement_per_horizon.png"] = agreement_figure(history)
    log_figures(run_id, figures, uri=uri)


def register(config: Config, run_id: str, uri: str, result: TrainResult, evaluation: EvaluationReport) -> int:
    """Make the model a version with the alias `candidate`, unless an earlier attempt has; its number."""
    folder = RunFolder.of(config)
    earlier = folder.record()
    if earlier and earlier.model_version:
        return int(earlier.model_version)
    card = ModelCard(
        model=config.model,
        parameters=parameter_counts(config.model).total,
        tokens=result.tokens,
        perplexity=evaluation.perplexity,
        losses=tuple(evaluation.loss),
        agreement=tuple(evaluation.agreement),
        acceptance=tuple(evaluation.decoding.acceptance) if evaluation.decoding else (),
        tokens_per_step=evaluation.decoding.tokens_per_step if evaluation.decoding else None,
        data_fingerprint=open_training_data(config.data).fingerprint,
    )
    model = local_model(config, result)
    leave_probe(model, config.evaluate.data or f"{config.data.path}/validation")
    version = register_model(run_id, model, config.tracking.model_name, "candidate", card=card, uri=uri)
    folder.remember_version(str(version))
    return version


if __name__ == "__main__":
    job_main(run)
