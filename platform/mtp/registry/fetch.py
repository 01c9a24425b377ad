"""From a model URI to a folder on this machine that holds the model, whole.

A URI is a folder, `runs:/ID/model`, `models:/NAME/VERSION` or `models:/NAME@ALIAS`. What comes from the registry is
checked against the checksums that it was registered with, and kept, so that the next fetch is local.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mtp.config import home
from mtp.errors import MTPError, UsageError
from mtp.registry.artifacts import repository
from mtp.registry.connection import client, registry_errors, tracking_uri
from mtp.registry.files import require_intact, require_model_folder
from mtp.registry.models import ARTIFACT_NAME, CHECKSUMS_TAG, require_registered, require_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

_FORMS = "a folder, runs:/ID/model, models:/NAME/VERSION or models:/NAME@ALIAS"


def fetch_model(model_uri: str, uri: str | None = None) -> Path:
    """The folder of a model; `uri` is the tracking server's.

    Raises:
        UsageError: the URI is of no known form, or names something that does not exist.
        MTPError: the registry does not answer, or the model's files are damaged.
    """
    if not re.match(r"[a-z-]+:/", model_uri):
        folder = Path(model_uri).expanduser()
        require_model_folder(folder)
        return folder
    uri = uri or tracking_uri()
    mlflow = client(uri)
    with registry_errors(uri):
        logged = _logged_model(mlflow, model_uri, uri)
        return _download(logged, model_uri, uri)


def resolve_version(model_uri: str, uri: str | None = None) -> str:
    """`models:/NAME@ALIAS` as the `models:/NAME/VERSION` that it means now; any other URI as it is.

    Raises:
        UsageError: the model or the alias does not exist.
    """
    name, at, alias = model_uri.removeprefix("models:/").partition("@")
    if not at or not model_uri.startswith("models:/"):
        return model_uri
    uri = uri or tracking_uri()
    mlflow = client(uri)
    with registry_errors(uri):
        return f"models:/{name}/{_aliased(mlflow, name, alias, uri)}"


def _logged_model(mlflow: "MlflowClient", model_uri: str, uri: str) -> "LoggedModel":
    if match := re.fullmatch(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)", model_uri):
        version = _aliased(mlflow, match["name"], match["alias"], uri)
    elif match := re.fullmatch(r"models:/(?P<name>[^/@]+)/(?P<version>\d+)", model_uri):
        version = int(match["version"])
    elif match := re.fullmatch(rf"runs:/(?P<run>[^/]+)/{ARTIFACT_NAME}", model_uri):
        return _of_run(mlflow, match["run"], uri)
    else:
        raise UsageError(f"{model_uri!r} is no model URI; give {_FORMS}")
    source = require_version(mlflow, match["name"], version, uri).source
    if not source.startswith("models:/m-"):
        raise UsageError(f"{model_uri} was not registered by this platform: it has no model files of its own")
    return mlflow.get_logged_model(source.removeprefix("models:/"))


def _aliased(mlflow: "MlflowClient", name: str, alias: str, uri: str) -> int:
    aliases = require_registered(mlflow, name, uri)
    if alias not in aliases:
        known = ", ".join(f"{key} (version {at})" for key, at in sorted(aliases.items())) or "none"
        raise UsageError(f"{name} has no alias {alias!r}; there are: {known}")
    return aliases[alias]


def _of_run(mlflow: "MlflowClient", run_id: str, uri: str) -> "LoggedModel":
    from mlflow.exceptions import MlflowException

    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise UsageError(f"there is no run {run_id!r} at {uri}; see its experiments for the ids") from None
        raise
    outputs = run.outputs.model_outputs if run.outputs else []
    models = [mlflow.get_logged_model(output.model_id) for output in outputs]
    ready = [model for model in models if model.name == ARTIFACT_NAME and str(model.status) == "READY"]
    if not ready:
        raise UsageError(f"run {run_id} has no model; it was not finished, or it trained none")
    return max(ready, key=lambda model: model.creation_timestamp)


def _download(logged: "LoggedModel", model_uri: str, uri: str) -> Path:
    expected = json.loads(logged.tags.get(CHECKSUMS_TAG, "{}"))
    if not expected:
        raise UsageError(f"{model_uri} was not registered by this platform: it has no checksums")
    kept = home() / "models" / logged.model_id
    if kept.is_dir():
        try:
            require_intact(kept, expected, model_uri)
            return kept
        except MTPError:
            shutil.rmtree(kept)  # our copy has rotted; the registry's is asked again
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as name:
        arriving = Path(name) / "model"
        arriving.mkdir()
        source = repository(logged.artifact_location, uri)
        for file in expected:  # by name: a listing from outside never chooses a path here
            source.download_artifacts(_inside(file), str(arriving))
        require_intact(arriving, expected, model_uri)
        require_model_folder(arriving)
        try:
            arriving.rename(kept)
        except OSError:  # another process was quicker; its copy has the same checksums
            require_intact(kept, expected, model_uri)
    return kept


def _inside(name: str) -> str:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise MTPError(f"the registry names a file outside of the model folder: {name!r}")
    return name
