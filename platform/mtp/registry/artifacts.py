"""Files of runs and models: where they lie, and how they get there.

Artifacts are addressed as `mlflow-artifacts:/...`: through the server for whoever talks to it, and directly in the
`artifacts` folder beside the database for a process that opens the sqlite file itself. Both see the same files, so
what `mtp train` logs without a server is there when `mtp up` starts one, and the other way round.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtp.registry.connection import client, registry_errors, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

SCHEME = "mlflow-artifacts:/"


def repository(artifact_uri: str, uri: str) -> "ArtifactRepository":
    """MLflow's reader and writer of the files below `artifact_uri`, for tracking URI `uri`."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    database = sqlite_file(uri)
    if database is not None and artifact_uri.startswith(SCHEME):
        artifact_uri = (database.parent / "artifacts" / artifact_uri.removeprefix(SCHEME).lstrip("/")).as_uri()
    return get_artifact_repository(artifact_uri, tracking_uri=uri)


def log_figures(run_id: str, figures: Mapping[str, "Figure"], *, uri: str | None = None) -> None:
    """Keep figures (`{"loss.png": figure}`) in the run's `figures` folder."""
    with _upload(run_id, "figures", uri) as folder:
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=120, bbox_inches="tight")


def log_json(run_id: str, name: str, value: Any, *, uri: str | None = None) -> None:
    """Keep a JSON document as `name` among the run's files."""
    log_text(run_id, name, json.dumps(value, indent=2), uri=uri)


def log_text(run_id: str, name: str, text: str, *, uri: str | None = None) -> None:
    """Keep a text as the file `name` of the run."""
    with _upload(run_id, None, uri) as folder:
        (folder / name).write_text(text, encoding="utf-8")


def log_table(
    run_id: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, uri: str | None = None
) -> None:
    """Keep a table as JSON in the form in which MLflow's user interface shows tables."""
    log_json(run_id, name, {"columns": list(columns), "data": [list(row) for row in rows]}, uri=uri)


@contextmanager
def _upload(run_id: str, subfolder: str | None, uri: str | None) -> Iterator[Path]:
    """A temporary folder whose files are sent to the run when the block ends well."""
    uri = uri or tracking_uri()
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        with registry_errors(uri):
            run = client(uri).get_run(run_id)
            repository(run.info.artifact_uri, uri).log_artifacts(name, subfolder)
