"""The refresh job: prediction modules trained anew on fresh text, the backbone untouched, as a new version.

The version becomes the alias's only if its drafts are accepted more often on held-out text than its parent's.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from jobs.cluster_task import on_cluster
from jobs.entry import job_main
from jobs.evaluate import card_of, record, settings_of
from mtp.config import Config
from mtp.errors import MTPError, UsageError
from mtp.evaluate import EvaluationReport, EvaluationSettings
from mtp.registry import (
    Gate,
    ending_run,
    fetch_model,
    log_json,
    promote,
    record_gates,
    register_model,
    resolve_version,
    start_run,
    tracking_uri,
)
from mtp.train.preflight import uses_gpu
from mtp.train.process import share_cores

if TYPE_CHECKING:
    from mtp.checkpoint.stored_weights import StoredWeights


class Refreshed(BaseModel):
    """What the task found."""

    version: int
    steps: int
    tokens: int
    fingerprint: str
    before: EvaluationReport
    after: EvaluationReport


class RefreshReport(BaseModel):
    """What a refresh left behind."""

    model_config = ConfigDict(protected_namespaces=())
    parent: str
    model_name: str
    version: int
    run_id: str
    steps: int
    tokens: int
    acceptance_before: list[float]
    acceptance_after: list[float]
    promoted: bool
    detail: str


def run(config: Config) -> RefreshReport:
    """Refresh `config.refresh.model`.

    Raises:
        UsageError: no model is named, it has no prediction modules, or the data has another tokenizer.
        MTPError: training failed, or the backbone changed.
    """
    uri = tracking_uri(config.tracking)
    if config.refresh.model is None:
        raise UsageError("refresh.model names no model; give the model's URI")
    parent = resolve_version(config.refresh.model, uri)
    name = parent.removeprefix("models:/").partition("/")[0] if parent.startswith("models:/") else None
    name = name or config.tracking.model_name
    gpu = uses_gpu(config)
    run_id = start_run(
        config.tracking, f"refresh {parent}", config.model_dump(mode="json"), tags={"mtp.parent": parent}
    )
    with ending_run(run_id, uri=uri):
        log_json(run_id, "config.json", config.model_dump(mode="json"), uri=uri)
        found = on_cluster(
            config.evaluate.cpus,
            int(gpu),
            refreshed,
            config,
            partial(fetch_model, parent, uri),
            settings_of(config, "cuda" if gpu else "cpu"),
            partial(registered, run_id, name, parent, uri),
        )
        record(run_id, uri, found.after, step=found.steps)
        gate = acceptance_gate(found.before, found.after)
        if gate.passed:
            promote(name, found.version, config.refresh.alias, {"acceptance-rises": gate}, uri=uri)
        else:
            record_gates(name, found.version, {"acceptance-rises": gate}, uri=uri)
    return RefreshReport(
        parent=parent,
        model_name=name,
        version=found.version,
        run_id=run_id,
        steps=found.steps,
        tokens=found.tokens,
        acceptance_before=_acceptance(found.before),
        acceptance_after=_acceptance(found.after),
        promoted=gate.passed,
        detail=gate.detail,
    )


Register = Callable[[Path, EvaluationReport, str, int], int]


def refreshed(config: Config, fetch: Callable[[], Path], settings: EvaluationSettings, register: Register) -> Refreshed:
    """The task: measure, train the modules, check the backbone, measure again, register."""
    import torch

    from mtp.checkpoint import load_model, save_state
    from mtp.checkpoint.stored_weights import FP32_BUFFER, open_weights
    from mtp.data import open_training_data
    from mtp.evaluate import evaluate
    from mtp.evaluate.probing import leave_probe
    from mtp.tokenizer import Tokenizer
    from mtp.train.plain import train_modules

    share_cores(1, torch.device(settings.device))
    folder = fetch()
    sizes = settings.model_dump(exclude={"data"})
    model = load_model(folder, settings.device, torch.float32)
    if model.config.n_future == 1:
        raise UsageError(f"{config.refresh.model} has no prediction modules to refresh")
    data = open_training_data(config.data)
    before = evaluate(folder, settings.data, **sizes)  # refuses data of another tokenizer
    if data.tokenizer != Tokenizer.load(folder):
        raise UsageError(f"{config.data.path} was prepared with another tokenizer than {config.refresh.model}'s")
    *_, last = train_modules(model, data, config, config.refresh.steps)
    stored = open_weights(folder)
    kept = {
        key: value if key.endswith(FP32_BUFFER) else value.to(stored.dtype) for key, value in model.state_dict().items()
    }
    with tempfile.TemporaryDirectory() as name:
        out = save_state(Path(name) / "model", model.config, kept, Tokenizer.load(folder))
        require_same_backbone(stored, open_weights(out))
        after = evaluate(out, settings.data, **sizes)
        leave_probe(out, settings.data)
        version = register(out, after, data.fingerprint, last.tokens)
    return Refreshed(
        version=version,
        steps=last.step,
        tokens=last.tokens,
        fingerprint=data.fingerprint,
        before=before,
        after=after,
    )


def require_same_backbone(before: "StoredWeights", after: "StoredWeights") -> None:
    """Compare the files bit for bit.

    Raises:
        MTPError: a tensor outside of the prediction modules changed.
    """
    import torch

    for name in before.shapes:
        if not name.startswith("prediction.") and not torch.equal(before.read(name), after.read(name)):
            raise MTPError(f"the backbone changed during the refresh ({name}); nothing was registered")


def registered(
    run_id: str, name: str, parent: str, uri: str, folder: Path, report: EvaluationReport, fingerprint: str, tokens: int
) -> int:
    """The refreshed model as a version without an alias yet."""
    from dataclasses import replace

    from mtp.checkpoint import load_model_config
    from mtp.model.accounting import parameter_counts

    shape = load_model_config(folder)
    card = replace(
        card_of(report),
        model=shape,
        parameters=parameter_counts(shape).total,
        data_fingerprint=fingerprint,
        parent=parent,
        extra={"refreshed": f"prediction modules alone, on {tokens:,} tokens"},
    )
    return register_model(run_id, folder, name, card=card, uri=uri)


def acceptance_gate(before: EvaluationReport, after: EvaluationReport) -> Gate:
    """Whether more drafts are accepted than the parent's, summed over positions (accepted tokens a step)."""
    old, new = sum(_acceptance(before)), sum(_acceptance(after))
    return Gate(new > old, f"accepted drafts a step {new:.3f}, parent {old:.3f}")


def _acceptance(report: EvaluationReport) -> list[float]:
    return report.decoding.acceptance if report.decoding else []


if __name__ == "__main__":
    job_main(run)
