"""The compare job: approaches, decoders and settings under one token budget and data order, as one MLflow run.

Trainings run side by side as tasks of the cluster; each is a piece that is kept when it is done, so that the same
command goes on with an interrupted comparison. Tables are made from the pieces, and can be made again at no cost.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from jobs.cluster_task import spread
from jobs.entry import job_main
from jobs.evaluate import settings_of
from jobs.pieces import Pieces
from mtp.compare import CompareReport, TrainedModel, TrainSpec, make_tables, plan_trainings, train_variant
from mtp.compare.decoders import DecoderRows
from mtp.compare.plan import DRAFT, MAIN
from mtp.config import Config, home
from mtp.data import open_training_data
from mtp.evaluate import EvaluationSettings
from mtp.progress import OnStage, StageLines
from mtp.registry import MetricLogger, ending_run, log_figures, log_json, log_table, log_text, start_run, tracking_uri

PARENT = "mlflow.parentRunId"


class RunRecord(BaseModel):
    """The comparison's MLflow run."""

    run_id: str


def run(config: Config, on_progress: OnStage | None = None) -> CompareReport:
    """Train and measure what is not done yet, make the tables, log them.

    Raises:
        UsageError: the data is of another vocabulary or row length than the models.
        MTPError: a training diverged, data is damaged, or the registry does not answer.
    """
    tell = on_progress or StageLines()
    uri = tracking_uri(config.tracking)
    folder = comparison_folder(config)
    record, place = Pieces(folder, RunRecord), f"run-{_digest(uri)}"
    known = record.find(place)
    tree = config.model_dump(mode="json")
    run_id = start_run(config.tracking, config.compare.name, tree, resume=known.run_id if known else None)
    record.keep(place, RunRecord(run_id=run_id))
    with ending_run(run_id, uri=uri):
        models = trained(config, folder, run_id, uri, tell)
        decoders = decoded(config, folder, models, tell) if "decoders" in config.compare.tables else []
        report = CompareReport(
            name=config.compare.name,
            parent_run_id=run_id,
            folder=str(folder),
            tokens=config.compare.tokens,
            seeds=list(config.compare.seeds),
            budget=budget(config),
            tables=make_tables(config, models, decoders),
        )
        publish(report, models, folder, uri)
    return report


def comparison_folder(config: Config) -> Path:
    """Where the pieces are kept: one folder a name and data set, so that other tables find the same trainings."""
    return home() / "comparisons" / f"{config.compare.name}-{_digest(open_training_data(config.data).fingerprint)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def trained(config: Config, folder: Path, parent: str, uri: str, tell: OnStage) -> list[TrainedModel]:
    """Every training of the plan; those that an earlier attempt finished are read."""
    pieces = Pieces(folder, TrainedModel)
    specs = {spec.name: spec for spec in plan_trainings(config)}
    for data in {spec.config.data.path: spec.config.data for spec in specs.values()}.values():
        open_training_data(data)  # all of them, before hours are spent on the first
    found = {name: piece for name in specs if (piece := pieces.find(name))}
    left = [spec for name, spec in specs.items() if name not in found]
    task = partial(train_task, folder, min(config.compare.workers, max(len(left), 1)))
    for name, model in spread(task, left, at_once=config.compare.workers, cpus=config.compare.cpus):
        log_child(config, specs[name], model, parent, uri)
        pieces.keep(name, model)
        found[name] = model
        tell("train", len(found), len(specs))
    return [found[name].model_copy(update={"labels": spec.labels}) for name, spec in specs.items()]


def train_task(folder: Path, workers: int, spec: TrainSpec) -> tuple[str, TrainedModel]:
    """One training, beside `workers` - 1 others."""
    import torch

    from mtp.train.process import share_cores

    share_cores(workers, torch.device("cpu"))
    return spec.name, train_variant(spec, folder / "models" / spec.name, settings_of(spec.config, "cpu"))


def decoded(config: Config, folder: Path, models: Sequence[TrainedModel], tell: OnStage) -> list[DecoderRows]:
    """Every decoder on the sequential model of each seed, one seed at a time: speeds are compared."""
    pieces = Pieces(folder, DecoderRows)
    by_label = {(label, model.seed): model for model in models for label in model.labels}
    settings = settings_of(config, "cpu")
    pairs = {seed: (by_label[MAIN, seed], by_label[DRAFT, seed]) for seed in config.compare.seeds}
    names = {
        seed: f"decoders-{Path(main.folder).name}-{Path(small.folder).name}" for seed, (main, small) in pairs.items()
    }
    found = {seed: piece for seed, name in names.items() if (piece := pieces.find(name))}
    left = [pair for seed, pair in pairs.items() if seed not in found]
    for rows in spread(partial(decode_task, settings), left, at_once=1, cpus=config.compare.cpus):
        pieces.keep(names[rows.seed], rows)
        found[rows.seed] = rows
        tell("decode", len(found), len(pairs))
    return [found[seed] for seed in config.compare.seeds]


def decode_task(settings: EvaluationSettings, pair: tuple[TrainedModel, TrainedModel]) -> DecoderRows:
    """The task of one seed."""
    import torch

    from mtp.checkpoint import load_model
    from mtp.compare.decoders import measure_decoders
    from mtp.data import open_dataset, read_rows
    from mtp.evaluate.decoding import held_out_prompts
    from mtp.train.process import share_cores

    share_cores(1, torch.device("cpu"))
    main, small = pair
    data = open_dataset(settings.data)
    rows = read_rows(data, limit=settings.max_rows)
    prompts = held_out_prompts(*rows, settings.prompts, settings.prompt_tokens)
    model, draft_model = (load_model(item.folder, dtype=torch.float32) for item in (main, small))
    return measure_decoders(model, draft_model, prompts, settings.new_tokens, data.tokenizer.eos_id, main.seed)


def log_child(config: Config, spec: TrainSpec, model: TrainedModel, parent: str, uri: str) -> None:
    """One training as a child run, with its curve."""
    tree = spec.config.model_dump(mode="json", include={"model", "objective", "train"})
    child = start_run(config.tracking, f"{spec.labels[0]}, seed {spec.seed}", tree, tags={PARENT: parent})
    with ending_run(child, uri=uri), MetricLogger(uri, child) as logger:
        for point in model.curve:
            logger.log(point.step, {"compare/ppl": point.perplexity, "compare/seconds": point.seconds})
        logger.log(model.steps, model.report.metrics())


def publish(report: CompareReport, models: Sequence[TrainedModel], folder: Path, uri: str) -> None:
    """Write the page and the figures, and log all of it to the parent run."""
    from mtp.compare.figures import comparison_figures

    figures = comparison_figures(models)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=120, bbox_inches="tight")
    (folder / "comparison.md").write_text(report.markdown(), encoding="utf-8")
    (folder / "comparison.json").write_text(report.model_dump_json(indent=2), encoding="utf-8")
    log_text(report.parent_run_id, "comparison.md", report.markdown(), uri=uri)
    log_json(report.parent_run_id, "comparison.json", report.model_dump(mode="json"), uri=uri)
    for table in report.tables:
        log_table(report.parent_run_id, f"{table.name}.json", table.columns, table.texts(), uri=uri)
    log_figures(report.parent_run_id, figures, uri=uri)


def budget(config: Config) -> str:
    """What every figure rests on, in words."""
    model, compare = config.model, config.compare
    return (
        f"Every model read {compare.tokens:,} tokens in one order (data seed {config.data.seed}), in batches of "
        f"{config.train.batch_size} rows of {config.data.seq_len}; hidden size {model.hidden_size}, "
        f"{model.num_hidden_layers} layers, vocabulary {model.vocab_size}, {model.prediction.n_future} horizons. "
        f"Seeds {', '.join(map(str, compare.seeds))}; ± is the sample standard deviation over them."
    )


if __name__ == "__main__":
    job_main(run)
