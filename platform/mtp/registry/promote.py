"""Who becomes champion: an alias moves only to a version that is whole and passed its checks.

What the checks measure is their owner's business; here they are sentences with a verdict.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from mtp.config import home
from mtp.errors import MTPError
from mtp.registry.connection import client, registry_errors, tracking_uri
from mtp.registry.fetch import fetch_model
from mtp.registry.models import require_registered, require_version

_GATE = "gate."


class Gate(NamedTuple):
    """The outcome of one check."""

    passed: bool
    detail: str
    """The figure and its limit, such as `perplexity 41.2, champion 40.9 + 5 %`."""


def record_gates(name: str, version: int, gates: Mapping[str, Gate], *, uri: str | None = None) -> None:
    """Keep the outcome of checks with a version, as tags; a check of the same name is replaced.

    Raises:
        UsageError: the model or the version does not exist.
    """
    uri = uri or tracking_uri()
    mlflow = client(uri)
    with registry_errors(uri):
        require_version(mlflow, name, version, uri)
        for gate, (passed, detail) in gates.items():
            verdict = "passed" if passed else "failed"
            mlflow.set_model_version_tag(name, str(version), f"{_GATE}{gate}", f"{verdict}: {detail}")


def recorded_gates(tags: Mapping[str, str]) -> dict[str, Gate]:
    """The checks that a version's tags remember."""
    found = {}
    for key, value in tags.items():
        if key.startswith(_GATE):
            verdict, _, detail = value.partition(": ")
            found[key.removeprefix(_GATE)] = Gate(verdict == "passed", detail)
    return found


def promote(
    name: str,
    version: int,
    alias: str = "champion",
    gates: Mapping[str, Gate] | None = None,
    *,
    uri: str | None = None,
) -> int | None:
    """Point `alias` at a version that passes; returns the version that had it before.

    It passes if its files are whole in the registry, and neither `gates` (recorded with it) nor a check recorded
    earlier has failed. Several promotions at once on a machine go one after the other; elsewhere the last one wins.

    Raises:
        UsageError: the model or the version does not exist.
        MTPError: a check failed; the sentence says which.
    """
    uri = uri or tracking_uri()
    if gates:
        record_gates(name, version, gates, uri=uri)
    mlflow = client(uri)
    with registry_errors(uri), _one_at_a_time():
        _require_passed(name, version, recorded_gates(require_version(mlflow, name, version, uri).tags))
        fetch_model(f"models:/{name}/{version}", uri)  # whole, by its checksums
        before = require_registered(mlflow, name, uri).get(alias)
        mlflow.set_registered_model_alias(name, alias, str(version))
    return before


def _require_passed(name: str, version: int, gates: Mapping[str, Gate]) -> None:
    failed = [f"{gate} ({outcome.detail})" for gate, outcome in sorted(gates.items()) if not outcome.passed]
    if failed:
        raise MTPError(f"version {version} of {name} is not promoted: {', '.join(failed)} failed")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "promote.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
