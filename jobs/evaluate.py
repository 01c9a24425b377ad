"""The evaluate job: held-out loss, agreement per horizon and true acceptance of a model, as an MLflow run."""

from pathlib import Path

from jobs.entry import job_main
from mtp.config import Config
from mtp.evaluate import EvaluationReport, acceptance_figure, evaluate
from mtp.registry import MetricLogger, fetch_model, finish_run, log_figures, log_json, start_run, tracking_uri


def run(config: Config) -> EvaluationReport:
    """Evaluate `config.evaluate.model`; see `mtp.evaluate.evaluate` for what it raises."""
    uri = tracking_uri(config.tracking)
    model = config.evaluate.model or f"models:/{config.tracking.model_name}@candidate"
    report = measure(config, fetch_model(model, uri))
    run_id = start_run(config.tracking, f"evaluate {model}", config.evaluate.model_dump(mode="json"))
    record(run_id, uri, report)
    finish_run(run_id, uri=uri)
    return report


def measure(config: Config, folder: Path) -> EvaluationReport:
    """Evaluate the model in `folder` on the configured rows and prompts."""
    settings = config.evaluate
    return evaluate(
        folder,
        settings.data or f"{config.data.path}/validation",
        max_rows=settings.max_rows,
        batch_size=settings.batch_size,
        prompts=settings.prompts,
        prompt_tokens=settings.prompt_tokens,
        new_tokens=settings.new_tokens,
    )


def record(run_id: str, uri: str, report: EvaluationReport, step: int = 0) -> None:
    """Log a report's metrics, the acceptance figure, and the report itself as JSON."""
    with MetricLogger(uri, run_id) as logger:
        logger.log(step, report.metrics())
    log_json(run_id, "evaluation.json", report.model_dump(mode="json"), uri=uri)
    if report.decoding is not None and report.decoding.lengths:
        figure = acceptance_figure(report.decoding.acceptance, report.agreement)
        log_figures(run_id, {"acceptance.png": figure}, uri=uri)


if __name__ == "__main__":
    job_main(run)
