"""What serving measures of a version, kept with it beside what evaluation promised, and whether the two drift apart.

One tag a version holds the last report. Knows counts and the registry; nothing of where they were counted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mtp.registry.connection import client, registry_errors, tracking_uri

TAG = "production"
DRIFT = 0.1
"""Acceptance of a position that is so much off what was promised (0.1 = 10 percentage points) is called drift."""
ENOUGH_DRAFTS = 100


@dataclass(frozen=True)
class Production:
    """The last report."""

    at: datetime
    tokens: int
    steps: int
    acceptance: tuple[float, ...]
    """Per draft position, as in ModelCard."""
    drafts: int
    """Drafts of position 1 that this rests on."""

    @property
    def tokens_per_step(self) -> float:
        """Emitted tokens over target passes."""
        return self.tokens / self.steps if self.steps else 0.0


def record_production(
    version_uri: str,
    *,
    tokens: int,
    steps: int,
    drafted: Sequence[int],
    accepted: Sequence[int],
    uri: str | None = None,
) -> None:
    """Keep a report with the version `models:/NAME/VERSION`, in the place of the last one.

    Raises:
        MTPError: the registry does not answer.
    """
    name, _, version = version_uri.removeprefix("models:/").partition("/")
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tokens": tokens,
        "steps": steps,
        "acceptance": [yes / all_ if all_ else 0.0 for yes, all_ in zip(accepted, drafted, strict=True)],
        "drafts": drafted[0] if drafted else 0,
    }
    uri = uri or tracking_uri()
    mlflow = client(uri)
    with registry_errors(uri):
        mlflow.set_model_version_tag(name, version, TAG, json.dumps(report))


def production_of(tags: Mapping[str, str]) -> Production | None:
    """The last report in a version's tags."""
    if TAG not in tags:
        return None
    report = json.loads(tags[TAG])
    return Production(
        at=datetime.fromisoformat(report["at"]),
        tokens=report["tokens"],
        steps=report["steps"],
        acceptance=tuple(report["acceptance"]),
        drafts=report["drafts"],
    )


def drift(promised: Sequence[float], production: Production | None) -> str | None:
    """One sentence if acceptance in production is off what evaluation promised, at the first position where it is."""
    if production is None or production.drafts < ENOUGH_DRAFTS:
        return None
    for position, (said, seen) in enumerate(zip(promised, production.acceptance, strict=False), start=1):
        if abs(said - seen) > DRIFT:
            return (
                f"drafts at position {position} are accepted {seen:.0%} of the time in production, {said:.0%} in "
                f"evaluation: what is asked of the model differs from what it was evaluated on"
            )
    return None


def as_dict(production: Production) -> dict[str, object]:
    """For JSON."""
    return {**asdict(production), "tokens_per_step": production.tokens_per_step}
