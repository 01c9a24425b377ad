"""Who becomes champion: an alias moves only to a version that is whole and passed its checks, and can move back.

Every move is a tag of its own on the registered model (`promotion.ALIAS.TIME`), so that moves made at the same time
are all remembered; the newest decides where the alias points. What the checks measure is their owner's business; here
they are sentences with a verdict.
"""

import fcntl
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from mtp.config import home
from mtp.errors import MTPError, UsageError
from mtp.registry.connection import client, registry_errors, tracking_uri
from mtp.registry.fetch import fetch_model
from mtp.registry.models import require_registered, require_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

_GATE = "gate."
_PROMOTION = "promotion."


class Gate(NamedTuple):
    """The outcome of one check."""

    passed: bool
    detail: str
    """The figure and its limit, such as `perplexity 41.2, champion 40.9 + 5 %`."""


@dataclass(frozen=True)
class Promotion:
    """One move of an alias."""

    at: datetime
    version: int
    before: int | None
    """Where the alias pointed."""
    rollback: bool = False
    forced: str | None = None
    """The checks that had failed, where it was promoted all the same."""


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
    force: bool = False,
    uri: str | None = None,
) -> int | None:
    """Point `alias` at a version that passes; returns the version that had it before.

    It passes if its files are whole in the registry, and neither `gates` (recorded with it) nor a check recorded
    earlier has failed. With `force` failed checks are written down instead; damaged files stay where they are.

    Raises:
        UsageError: the model or the version does not exist.
        MTPError: a check failed; the sentence says which.
    """
    uri = uri or tracking_uri()
    if gates:
        record_gates(name, version, gates, uri=uri)
    mlflow = client(uri)
    with registry_errors(uri), _one_at_a_time():
        failed = _failed(recorded_gates(require_version(mlflow, name, version, uri).tags))
        if failed and not force:
            raise MTPError(f"version {version} of {name} is not promoted: {failed} failed")
        fetch_model(f"models:/{name}/{version}", uri)  # whole, by its checksums
        return _move(mlflow, name, alias, version, uri, forced=failed or None)


def roll_back(name: str, alias: str = "champion", *, uri: str | None = None) -> tuple[int, int]:
    """Point `alias` at the version that had it before the last promotion; returns (from, to). Again: one further back.

    Raises:
        UsageError: the model or the alias does not exist, or there is nothing to go back to.
        MTPError: the files of the version before are damaged.
    """
    uri = uri or tracking_uri()
    mlflow = client(uri)
    with registry_errors(uri), _one_at_a_time():
        aliases = require_registered(mlflow, name, uri)
        if alias not in aliases:
            raise UsageError(f"{name} has no alias {alias!r} to roll back; `mtp models {name}` lists the aliases")
        held = _holders(promotions(name, alias, uri=uri))
        if len(held) < 2:
            raise UsageError(f"nothing held {name}@{alias} before version {aliases[alias]}; there is no way back")
        fetch_model(f"models:/{name}/{held[-2]}", uri)
        _move(mlflow, name, alias, held[-2], uri, rollback=True)
    return aliases[alias], held[-2]


def promotions(name: str, alias: str = "champion", *, uri: str | None = None) -> list[Promotion]:
    """Every move of an alias, oldest first.

    Raises:
        UsageError: the model does not exist.
    """
    uri = uri or tracking_uri()
    mlflow = client(uri)
    with registry_errors(uri):
        require_registered(mlflow, name, uri)
        found = [json.loads(value) for _, value in _moves(mlflow, name, alias)]
    return [Promotion(**{**move, "at": datetime.fromisoformat(move["at"])}) for move in found]


def _moves(mlflow: "MlflowClient", name: str, alias: str) -> list[tuple[int, str]]:
    """Time, in nanoseconds, and content of the tag of every move, oldest first."""
    prefix = f"{_PROMOTION}{alias}."
    tags = mlflow.get_registered_model(name).tags
    found = sorted((key.removeprefix(prefix), value) for key, value in tags.items() if key.startswith(prefix))
    return [(int(key.partition("-")[0]), value) for key, value in found]


def _move(
    mlflow: "MlflowClient",
    name: str,
    alias: str,
    version: int,
    uri: str,
    *,
    rollback: bool = False,
    forced: str | None = None,
) -> int | None:
    """Write the move down, then set the alias to what the newest move says; returns the version before."""
    before = require_registered(mlflow, name, uri).get(alias)
    move = {
        "at": datetime.now(UTC).isoformat(),
        "version": version,
        "before": before,
        "rollback": rollback,
        "forced": forced,
    }
    last = max((at for at, _ in _moves(mlflow, name, alias)), default=0)
    at = max(time.time_ns(), last + 1)  # a machine whose clock is fast may have been before us
    key = f"{_PROMOTION}{alias}.{at}-{uuid.uuid4().hex[:8]}"
    mlflow.set_registered_model_tag(name, key, json.dumps(move))
    newest = promotions(name, alias, uri=uri)[-1]  # from another machine perhaps: all end with the same one
    mlflow.set_registered_model_alias(name, alias, str(newest.version))
    return before


def _holders(moves: list[Promotion]) -> list[int]:
    """Who held the alias, the present holder last: a roll-back takes the last one away."""
    held: list[int] = []
    for move in moves:
        if not held and move.before is not None:
            held.append(move.before)
        if move.rollback:
            held.pop()
        elif not held or held[-1] != move.version:
            held.append(move.version)
    return held


def _failed(gates: Mapping[str, Gate]) -> str:
    return ", ".join(f"{gate} ({outcome.detail})" for gate, outcome in sorted(gates.items()) if not outcome.passed)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """On this machine; moves made on several are put in order by their times."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "promote.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
