"""The evaluate job: what a model is worth on held-out text, as an MLflow run.

The parts of an evaluation run as tasks of the cluster, several at a time. Each is kept when it is done, so that the
same command goes on with an interrupted evaluation.
"""

import hashlib
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from jobs.cluster_task import on_cluster, spread
from jobs.entry import job_main
from jobs.pieces import Pieces
from mtp.config import Config, EvaluateConfig, home
from mtp.evaluate import (
    EvaluationPlan,
    EvaluationReport,
    EvaluationSettings,
    Part,
    PartSpec,
    TaskScores,
    acceptance_figure,
    domains_figure,
    measure_part,
    plan_evaluation,
    reliability_figure,
    report_of,
    score_task,
    task_name,
)
from mtp.progress import OnStage, StageLines, silent
from mtp.registry import (
    MetricLogger,
    ModelCard,
    ending_run,
    fetch_model,
    log_figures,
    log_json,
    log_table,
    record_figures,
    resolve_version,
    start_run,
    tracking_uri,
)
from mtp.train.preflight import uses_gpu
from mtp.train.process import share_cores

FetchModel = Callable[[], Path]
"""Gets the model's folder on the machine that calls it."""


def run(config: Config, on_progress: OnStage | None = None) -> EvaluationReport:
    """Evaluate `config.evaluate.model`; see `mtp.evaluate.evaluate` for what it raises."""
    uri = tracking_uri(config.tracking)
    model = resolve_version(config.evaluate.model or f"models:/{config.tracking.model_name}@candidate", uri)
    report = measure(config, partial(fetch_model, model, uri), model, on_progress or StageLines())
    run_id = start_run(
        config.tracking, f"evaluate {model}", config.evaluate.model_dump(mode="json"), tags={"mtp.model": model}
    )
    with ending_run(run_id, uri=uri):
        record(run_id, uri, report)
    if model.startswith("models:/"):
        record_figures(model, card_of(report), uri=uri)
    return report


def card_of(report: EvaluationReport) -> ModelCard:
    """The figures that a version's table and gates read."""
    decoding = report.decoding
    return ModelCard(
        perplexity=report.perplexity,
        losses=tuple(report.loss),
        agreement=tuple(report.agreement),
        acceptance=tuple(decoding.acceptance) if decoding else (),
        tokens_per_step=decoding.tokens_per_step if decoding else None,
    )


def measure(config: Config, fetch: FetchModel, name: str = "", on_progress: OnStage = silent) -> EvaluationReport:
    """Evaluate a model on the configured text and prompts; the report calls it `name` (default: its folder)."""
    names = task_pieces(config.evaluate)
    gpu = uses_gpu(config)
    settings = settings_of(config, "cuda" if gpu else "cpu")
    cpus, workers = config.evaluate.cpus, config.evaluate.workers
    folder, plan = on_cluster(cpus, int(gpu), planned, fetch, settings)
    pieces = Pieces(home() / "evaluations" / plan.key, Part)
    parts = [part for spec in plan.parts if (part := pieces.find(spec.name))]
    done = {part.spec for part in parts}
    left = [spec for spec in plan.parts if spec not in done]
    task = partial(measured, fetch, settings, plan, min(workers, len(left)))
    for part in spread(task, left, at_once=workers, cpus=cpus, gpus=int(gpu)):
        pieces.keep(part.spec.name, part)
        parts.append(part)
        on_progress("evaluate", len(parts), len(plan.parts))
    report = report_of(name or folder, settings, plan, parts)
    scores = scored_tasks(config, fetch, names, plan.key)
    pieces.clear()
    return report.model_copy(update={"tasks": scores})


def task_pieces(asked: EvaluateConfig) -> dict[str, str]:
    """What keeps the scores of each file of `evaluate.tasks`; refuses, before anything is measured, what is no task."""
    limit = asked.task_documents or "all"
    return {
        file: f"{task_name(file)}-{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]}-{limit}"
        for file in asked.tasks
    }


def scored_tasks(config: Config, fetch: FetchModel, names: dict[str, str], key: str) -> list[TaskScores]:
    """The scores of every task file; `key` is that of the evaluation, whose tasks are kept as they are done."""
    asked = config.evaluate
    pieces = Pieces(home() / "evaluations" / f"{key}-tasks", TaskScores)
    found = {file: scores for file, name in names.items() if (scores := pieces.find(name))}
    left = [file for file in names if file not in found]
    task = partial(scored, fetch, asked, min(asked.workers, len(left)), "cuda" if uses_gpu(config) else "cpu")
    for file, scores in spread(task, left, at_once=asked.workers, cpus=asked.cpus, gpus=int(uses_gpu(config))):
        pieces.keep(names[file], scores)
        found[file] = scores
    pieces.clear()
    return [found[file] for file in names]


def settings_of(config: Config, device: str) -> EvaluationSettings:
    """What the configuration asks for."""
    asked = config.evaluate.model_dump(
        exclude={"model", "data", "domains", "tasks", "task_documents", "workers", "cpus"}
    )
    sources = config.evaluate.domains or [source.path for source in config.data.mixture]
    return EvaluationSettings(
        **asked,
        data=config.evaluate.data or f"{config.data.path}/validation",
        domains={Path(source).name: f"{source}/validation" for source in sources},
        device=device,
    )


def planned(fetch: FetchModel, settings: EvaluationSettings) -> tuple[str, EvaluationPlan]:
    """The first task: the model's folder, and what there is to do."""
    folder = fetch()
    return str(folder), plan_evaluation(folder, settings)


def measured(
    fetch: FetchModel, settings: EvaluationSettings, plan: EvaluationPlan, workers: int, spec: PartSpec
) -> Part:
    """The task of one part, which shares its machine with those of `workers` - 1 others."""
    import torch

    share_cores(workers, torch.device(settings.device))
    return measure_part(fetch(), settings, plan, spec)


def scored(fetch: FetchModel, asked: EvaluateConfig, workers: int, device: str, file: str) -> tuple[str, TaskScores]:
    """The task of one task file."""
    import torch

    share_cores(workers, torch.device(device))
    limit, batch_size = asked.task_documents, asked.batch_size
    return file, score_task(fetch(), file, limit=limit, batch_size=batch_size, device=device)


def record(run_id: str, uri: str, report: EvaluationReport, step: int = 0, taken: Collection[str] = ()) -> None:
    """Log a report's metrics, its figures and table, and the report itself as JSON.

    Metrics whose names are `taken` (the trainer measured them at this very step, on rows of its own) are logged as
    final/... instead of eval/...; what the run has at this step already is not logged again.
    """
    named = {_free(name, taken): value for name, value in report.metrics().items()}
    with MetricLogger(uri, run_id, resumed=True) as logger:
        logger.log(step, named)
    log_json(run_id, "evaluation.json", report.model_dump(mode="json"), uri=uri)
    log_table(run_id, "evaluation_table.json", *report.table(), uri=uri)
    points = [[(cell.confidence, cell.correct) for cell in row if cell.count] for row in report.reliability]
    figures = {"reliability.png": reliability_figure(points, report.ece)}
    if report.decoding is not None and report.decoding.lengths:
        figures["acceptance.png"] = acceptance_figure(report.decoding.acceptance, report.agreement)
    if report.domains:
        log_table(run_id, "domains_table.json", *report.domain_table(), uri=uri)
        if any(domain.acceptance for domain in report.domains.values()):
            figures["domains.png"] = domains_figure({name: it.acceptance for name, it in report.domains.items()})
    log_figures(run_id, figures, uri=uri)


def _free(name: str, taken: Collection[str]) -> str:
    return name.replace("eval/", "final/", 1) if name in taken else name


if __name__ == "__main__":
    job_main(run)
