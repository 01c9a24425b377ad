"""Runs: one training (or evaluation) each, with its configuration, its code, and the data that it read."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mtp.config import TrackingConfig
from mtp.errors import StoppedError, UsageError
from mtp.registry.artifacts import SCHEME
from mtp.registry.connection import client, registry_errors, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

COMMIT_VARIABLE = "MTP_SOURCE_COMMIT"
"""Set by `mtp submit`, since the copy of the code that a job runs has no git history."""

_DIGEST_LENGTH = 36
_PARAMS_PER_REQUEST = 100


@dataclass(frozen=True)
class DatasetRecord:
    """The prepared data set that a run reads."""

    path: str
    fingerprint: str
    """Of its source and its preparation (the manifest's)."""
    name: str = "prepared"
    profile: Mapping[str, Any] = field(default_factory=dict)
    """Figures worth showing beside it: rows, tokens, documents."""


def start_run(
    tracking: TrackingConfig,
    run_name: str,
    params: Mapping[str, Any],
    *,
    dataset: DatasetRecord | None = None,
    tags: Mapping[str, str] | None = None,
    resume: str | None = None,
) -> str:
    """Begin a run in the configured experiment (made if it is new), or go on with run `resume`; returns its id.

    `params` may be nested, such as a resolved configuration: `{"train": {"steps": 5}}` is kept as `train.steps`. Params
    cannot change once logged; where a resumed run differs, the new value is kept as the tag `resumed.train.steps`.

    Raises:
        UsageError: there is no run `resume`.
        MTPError: the registry does not answer.
    """
    uri = tracking_uri(tracking)
    mlflow = client(uri)
    with registry_errors(uri):
        if resume is None:
            experiment_id = _ensure_experiment(mlflow, tracking.experiment, uri)
            run = mlflow.create_run(experiment_id, run_name=run_name, tags=_lineage(dataset, tags))
        else:
            run = _get_run(mlflow, resume, uri)
            mlflow.update_run(resume, status="RUNNING")
        run_id = str(run.info.run_id)
        _log_params(mlflow, run, dict(_flatten(params)))
        if dataset is not None:
            mlflow.log_inputs(run_id, datasets=[_input(dataset)])
    return run_id


def finish_run(
    run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED", *, uri: str | None = None
) -> None:
    """Mark the run's end."""
    uri = uri or tracking_uri()
    with registry_errors(uri):
        client(uri).set_terminated(run_id, status)


@contextmanager
def ending_run(run_id: str, *, uri: str | None = None) -> Iterator[None]:
    """Mark the run as finished, failed or killed (it was asked to stop), as the block ends."""
    try:
        yield
    except BaseException as error:
        asked = isinstance(error, StoppedError) or not isinstance(error, Exception)
        finish_run(run_id, "KILLED" if asked else "FAILED", uri=uri)
        raise
    finish_run(run_id, uri=uri)


def metric_history(run_id: str, *, uri: str | None = None) -> dict[str, list[tuple[int, float]]]:
    """Every metric of the run, by name: (step, value) in the order in which they were logged.

    Raises:
        MTPError: the registry does not answer, or there is no such run.
    """
    uri = uri or tracking_uri()
    mlflow = client(uri)
    with registry_errors(uri):
        names = mlflow.get_run(run_id).data.metrics
        return {
            name: [(point.step, point.value) for point in mlflow.get_metric_history(run_id, name)] for name in names
        }


def _ensure_experiment(mlflow: "MlflowClient", name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            raise UsageError(f"the experiment {name!r} at {uri} was deleted; restore it, or set tracking.experiment")
        return str(found.experiment_id)
    location = f"{SCHEME}{uuid.uuid4().hex}" if sqlite_file(uri) is not None else None  # a server knows its own
    try:
        return str(mlflow.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return _ensure_experiment(mlflow, name, uri)  # another process was quicker


def _get_run(mlflow: "MlflowClient", run_id: str, uri: str) -> "Run":
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise UsageError(f"there is no run {run_id!r} at {uri}; see its experiments for the ids") from None
        raise


def _lineage(dataset: DatasetRecord | None, tags: Mapping[str, str] | None) -> dict[str, str]:
    commit = source_commit()
    return {
        **({"mlflow.source.git.commit": commit} if commit else {}),
        **({"data.fingerprint": dataset.fingerprint} if dataset else {}),
        **(tags or {}),
    }


def source_commit() -> str | None:
    """The commit of the clone that this code lies in, or that it was submitted from; None outside of one."""
    told = os.environ.get(COMMIT_VARIABLE)
    if told:
        return told
    here = Path(__file__).resolve().parent
    tracked = ["git", "-C", str(here), "ls-files", "--error-unmatch", "runs.py"]
    try:
        # A wheel installed inside someone's clone is not that clone's code: the file must be tracked.
        subprocess.run(tracked, check=True, capture_output=True)
        head = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"a": {"b": 1}}` as `("a.b", "1")`; lists as JSON."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)


def _log_params(mlflow: "MlflowClient", run: "Run", params: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    known = run.data.params
    new = [Param(key, value) for key, value in params.items() if key not in known]
    changed = [RunTag(f"resumed.{key}", value) for key, value in params.items() if known.get(key, value) != value]
    for start in range(0, len(new), _PARAMS_PER_REQUEST):
        mlflow.log_batch(run.info.run_id, params=new[start : start + _PARAMS_PER_REQUEST])
    if changed:
        mlflow.log_batch(run.info.run_id, tags=changed)


def _input(record: DatasetRecord) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=record.name,
        digest=record.fingerprint[:_DIGEST_LENGTH],
        source_type="mtp_prepared",
        source=json.dumps({"path": record.path}),
        profile=json.dumps(dict(record.profile)),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])
