"""Which tracking server, a client for it, and its failures in one sentence.

MLflow is imported when the first client is made, told to be quiet, and to give up after seconds: by default it would
retry a dead server for minutes. Knows nothing about what is logged.
"""

import fcntl
import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mtp.config import TrackingConfig, home
from mtp.errors import MTPError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""Defaults for MLflow's own variables; what the user has exported wins."""

CONNECT_TIMEOUT_S = 5.0


def tracking_uri(config: TrackingConfig | None = None) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else the sqlite file in the state folder."""
    configured = config.uri if config is not None else None
    return configured or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def client(uri: str) -> "MlflowClient":
    """A client of the server or database at `uri`, known to answer.

    Raises:
        MTPError: it does not answer within seconds.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    _check_answers(uri)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    database = sqlite_file(uri)
    if database is not None:
        _initialise(uri, database)
    return MlflowClient(uri, registry_uri=uri)


@contextmanager
def registry_errors(uri: str) -> Iterator[None]:
    """Turns MLflow's exceptions about a server that went away, or a file that cannot be used, into an MTPError."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except RequestException as error:
        raise MTPError(_unreachable(uri, type(error).__name__)) from error
    except MlflowException as error:
        if error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
            raise MTPError(_unreachable(uri, _first_line(error))) from error
        raise MTPError(f"the registry at {uri} refuses: {_first_line(error)}") from error


@contextmanager
def as_global_uri(uri: str) -> Iterator[None]:
    """Makes `uri` MLflow's global one for a while, where it opens a sqlite file itself.

    Its store then looks up a new version's source at the global URI, whatever the client's. MLflow keeps the global
    URI in the environment too, which is the user's: it is put back.
    """
    if sqlite_file(uri) is None:
        yield
        return
    import mlflow

    variable = "MLFLOW_TRACKING_URI"
    before = os.environ.get(variable)
    try:
        mlflow.set_tracking_uri(uri)
        yield
    finally:
        mlflow.set_tracking_uri(before or "")
        if before is not None:
            os.environ[variable] = before


def sqlite_file(uri: str) -> Path | None:
    """The database file of a `sqlite:///PATH` URI; None for a server."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def _check_answers(uri: str) -> None:
    if not uri.startswith(("http://", "https://")):
        return
    import httpx

    try:
        httpx.get(f"{uri.rstrip('/')}/health", timeout=CONNECT_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise MTPError(_unreachable(uri, type(error).__name__)) from error


def _unreachable(uri: str, reason: str) -> str:
    return (
        f"the registry at {uri} does not answer ({reason}); start the local one with `mtp up`, "
        f"or point tracking.uri or MLFLOW_TRACKING_URI at one that runs"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@functools.cache
def _initialise(uri: str, database: Path) -> None:
    """Make the tables once, under a lock: several processes that meet a fresh file would all try, and all fail."""
    from alembic.util.exc import CommandError
    from mlflow import MlflowClient, __version__
    from mlflow.exceptions import MlflowException

    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except (MlflowException, CommandError) as error:
            reason = _first_line(error)
            if "schema" not in reason and "revision" not in reason:
                raise MTPError(_unreachable(uri, reason)) from error
            raise MTPError(
                f"the registry {database} has a format that this MLflow ({__version__}) does not know; use the version "
                f"that wrote it or a newer one, or, if it is older, run `mlflow db upgrade {uri}` after a backup"
            ) from error
