"""Registered models: whole versions only, with their figures.

A version is created after its files have arrived, so nobody can see a part of one. Knows files and tags; what the
figures mean is the card's business (card.py), who may have which alias is promotion's (promote.py).
"""

import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtp.errors import UsageError
from mtp.registry.artifacts import repository
from mtp.registry.card import ModelCard
from mtp.registry.connection import as_global_uri, client, registry_errors, tracking_uri
from mtp.registry.files import checksums, require_model_folder
from mtp.registry.lineage import lineage_of, refuse_newer
from mtp.registry.mlmodel import write_mlflow_files

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

ARTIFACT_NAME = "model"
"""The name in `runs:/ID/model`."""
CHECKSUMS_TAG = "mtp.sha256"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model, as tables show it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str | None
    created: datetime
    perplexity: float | None
    acceptance: tuple[float, ...]
    """Per draft position; empty if it was not measured."""
    agreement: tuple[float, ...]
    tokens_per_step: float | None
    data_fingerprint: str | None
    tokenizer_sha256: str | None
    source_commit: str | None
    parent: str | None
    """`models:/NAME/VERSION` that it was resumed or refreshed from."""
    description: str
    tags: dict[str, str]


def register_model(
    run_id: str,
    folder: str | Path,
    name: str,
    alias: str | None = None,
    *,
    card: ModelCard | None = None,
    uri: str | None = None,
) -> int:
    """Upload a model folder as the run's model, and make it the next version of the registered model `name`.

    Returns the version's number.

    Raises:
        UsageError: `folder` is no model folder, or holds pickles; `name` is not a valid name.
        MTPError: the registry does not answer; no version was made.
    """
    folder, uri, card = Path(folder), uri or tracking_uri(), card or ModelCard()
    require_model_folder(folder)
    if not name or any(character in name for character in "/:@"):
        raise UsageError(f"{name!r} cannot name a registered model: it is empty or holds one of / : @")
    mlflow = client(uri)
    lineage = lineage_of(folder, run_id, card.parent)
    with registry_errors(uri):
        run = mlflow.get_run(run_id)
        figures = _figures(run.info.artifact_uri, uri)
        logged = _upload(mlflow, run_id, folder, uri)
        _ensure_registered(mlflow, name)
        with as_global_uri(uri):
            created = mlflow.create_model_version(
                name,
                source=f"models:/{logged.model_id}",
                run_id=run_id,
                model_id=logged.model_id,
                tags={**card.tags(), **lineage.tags()},
                description=card.markdown(name, lineage, run.info.experiment_id, figures),
            )
        if alias is not None:
            mlflow.set_registered_model_alias(name, alias, created.version)
    return int(created.version)


def registered_models(*, uri: str | None = None) -> dict[str, dict[str, int]]:
    """Every registered model's name, with its aliases and the versions that they point at."""
    uri = uri or tracking_uri()
    mlflow = client(uri)
    found: dict[str, dict[str, int]] = {}
    token = None
    with registry_errors(uri):
        while True:
            page = mlflow.search_registered_models(page_token=token)
            found.update((model.name, {alias: int(at) for alias, at in model.aliases.items()}) for model in page)
            token = page.token
            if not token:
                return dict(sorted(found.items()))


def versions(name: str, *, uri: str | None = None) -> list[ModelVersion]:
    """All versions of a registered model, newest first.

    Raises:
        UsageError: no model has that name.
    """
    uri = uri or tracking_uri()
    mlflow = client(uri)
    found: list[MlflowVersion] = []
    token = None
    with registry_errors(uri):
        aliases = require_registered(mlflow, name, uri)
        while True:
            page = mlflow.search_model_versions(f"name = '{name}'", page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                break
    return sorted((_version(item, aliases) for item in found), key=lambda item: -item.version)


def record_figures(model_uri: str, card: ModelCard, *, uri: str | None = None) -> None:
    """Keep what an evaluation measured with the version `models:/NAME/VERSION`; figures it leaves out stay.

    Raises:
        UsageError: the version does not exist.
    """
    uri = uri or tracking_uri()
    name, _, version = model_uri.removeprefix("models:/").partition("/")
    mlflow = client(uri)
    with registry_errors(uri):
        require_version(mlflow, name, int(version), uri)
        for tag, value in card.tags().items():
            mlflow.set_model_version_tag(name, version, tag, value)


def set_alias(name: str, alias: str, version: int, *, uri: str | None = None) -> None:
    """Point `alias` at a version, without any check of what the version is worth (see promote).

    Raises:
        UsageError: the model or the version does not exist.
    """
    uri = uri or tracking_uri()
    mlflow = client(uri)
    with registry_errors(uri):
        require_version(mlflow, name, version, uri)
        mlflow.set_registered_model_alias(name, alias, str(version))


def require_registered(mlflow: "MlflowClient", name: str, uri: str) -> dict[str, int]:
    """The aliases of a registered model.

    Raises:
        UsageError: it does not exist; the sentence names those that do.
    """
    from mlflow.exceptions import MlflowException

    try:
        return {alias: int(at) for alias, at in mlflow.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    known = ", ".join(registered_models(uri=uri)) or "none yet"
    raise UsageError(f"no registered model {name!r} at {uri}; there are: {known}")


def require_version(mlflow: "MlflowClient", name: str, version: int, uri: str) -> "MlflowVersion":
    """One version of a registered model.

    Raises:
        UsageError: it does not exist; the sentence names those that do.
    """
    from mlflow.exceptions import MlflowException

    require_registered(mlflow, name, uri)
    try:
        found = mlflow.get_model_version(name, str(version))
        refuse_newer(found.tags, f"version {version} of {name}")
        return found
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    known = ", ".join(str(item.version) for item in versions(name, uri=uri)) or "none"
    raise UsageError(f"{name} has no version {version}; there are: {known}")


def _upload(mlflow: "MlflowClient", run_id: str, folder: Path, uri: str) -> "LoggedModel":
    """The folder's files as the run's model; READY only when all have arrived."""
    from mlflow.entities import LoggedModelOutput

    run = mlflow.get_run(run_id)
    logged = mlflow.create_logged_model(
        run.info.experiment_id,
        name=ARTIFACT_NAME,
        source_run_id=run_id,
        tags={CHECKSUMS_TAG: json.dumps(checksums(folder))},
        model_type="mtp",
    )
    try:
        store = repository(logged.artifact_location, uri)
        store.log_artifacts(str(folder))
        with tempfile.TemporaryDirectory() as beside:
            write_mlflow_files(Path(beside))
            store.log_artifacts(beside)
    except BaseException:
        mlflow.finalize_logged_model(logged.model_id, "FAILED")
        raise
    mlflow.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return mlflow.finalize_logged_model(logged.model_id, "READY")


def _figures(artifact_uri: str, uri: str) -> list[str]:
    """The pictures that the run has so far."""
    files = repository(artifact_uri, uri).list_artifacts("figures")
    return sorted(file.path for file in files if file.path.endswith(".png"))


def _ensure_registered(mlflow: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(item: "MlflowVersion", aliases: dict[str, int]) -> ModelVersion:
    refuse_newer(item.tags, f"version {item.version} of {item.name}")

    def figure(name: str) -> Any:
        return json.loads(item.tags[name]) if name in item.tags else None

    return ModelVersion(
        name=item.name,
        version=int(item.version),
        aliases=tuple(sorted(alias for alias, at in aliases.items() if at == int(item.version))),
        run_id=item.run_id or None,
        created=datetime.fromtimestamp(item.creation_timestamp / 1000, tz=UTC),
        perplexity=figure("perplexity"),
        acceptance=tuple(figure("acceptance") or ()),
        agreement=tuple(figure("agreement") or ()),
        tokens_per_step=figure("tokens_per_step"),
        data_fingerprint=figure("data_fingerprint"),
        tokenizer_sha256=item.tags.get("tokenizer_sha256"),
        source_commit=item.tags.get("source_commit"),
        parent=item.tags.get("parent"),
        description=item.description or "",
        tags=dict(item.tags),
    )
