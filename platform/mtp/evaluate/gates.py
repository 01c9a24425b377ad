"""The gates of promotion: is this version good enough to take the champion's place? Sentences with figures.

Figures come from evaluations recorded with the versions; exactness and the round trip are tried on the model itself.
Knows versions and a model folder; moves no alias.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from mtp.checkpoint import export_hf, import_hf, load_model
from mtp.checkpoint.config_json import read_config
from mtp.checkpoint.folder import expected_shapes
from mtp.checkpoint.public_layout import reason_not_to_fit
from mtp.checkpoint.stored_weights import open_weights
from mtp.config.promote import PromoteConfig
from mtp.evaluate.audit import audit
from mtp.registry import Gate, ModelVersion


def promotion_gates(
    folder: Path,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    config: PromoteConfig,
    on_progress: Callable[[str], None] = lambda doing: None,
) -> dict[str, Gate]:
    """The outcome of every gate that the configuration asks for.

    Args:
        folder: the candidate's files.
        candidate: as the registry knows it.
        champion: the version that has the alias now; None if none has.
        config: the limits.
        on_progress: told what is being done.

    Raises:
        MTPError: the model's files are damaged.
    """
    gates = {}
    if config.max_perplexity_increase is not None:
        gates["perplexity"] = perplexity_gate(candidate, champion, config.max_perplexity_increase)
    if config.min_tokens_per_step is not None:
        gates["tokens-per-step"] = tokens_per_step_gate(candidate, config.min_tokens_per_step)
    if config.round_trip:
        on_progress("exporting and importing again")
        gates["round-trip"] = round_trip_gate(folder)
    if config.audit_samples:
        on_progress("auditing exactness")
        gates["exact"] = exactness_gate(folder, config)
    return gates


def perplexity_gate(candidate: ModelVersion, champion: ModelVersion | None, limit: float) -> Gate:
    """Whether the perplexity is within `limit` (a share) of the champion's."""
    mine = candidate.perplexity
    if mine is None:
        return Gate(False, f"never evaluated; run mtp evaluate models:/{candidate.name}/{candidate.version}")
    if champion is None or champion.perplexity is None:
        return Gate(True, f"perplexity {mine:.2f}, no champion to compare with")
    most = champion.perplexity * (1 + limit)
    other = "" if candidate.data_fingerprint == champion.data_fingerprint else ", trained on other data"
    detail = f"perplexity {mine:.2f}, champion {champion.perplexity:.2f} + {limit:.1%} = {most:.2f}{other}"
    return Gate(mine <= most, detail)


def tokens_per_step_gate(candidate: ModelVersion, least: float) -> Gate:
    """Whether decoding emits enough tokens per step."""
    found = candidate.tokens_per_step
    if found is None:
        return Gate(False, f"never measured; run mtp evaluate models:/{candidate.name}/{candidate.version}")
    return Gate(found >= least, f"{found:.2f} tokens per step, at least {least:.2f}")


def exactness_gate(folder: Path, config: PromoteConfig) -> Gate:
    """Whether every exact decoder passes the audit."""
    model = load_model(folder, dtype=torch.float32)
    report = audit(model, prompts=config.audit_prompts, samples=config.audit_samples or 1)
    if report.failed:
        worst = report.failed[0]
        return Gate(False, f"{worst.decoder} ({worst.rule}, {worst.test}) is not exact: {worst.detail}")
    exact = sum(row.verdict == "exact" for row in report.rows)
    return Gate(True, f"{exact} tests of exact decoding passed, {report.prompts} prompts, {report.samples} samples")


def round_trip_gate(folder: Path) -> Gate:
    """Whether the public layout and back gives the same tensors, bit for bit."""
    reason = reason_not_to_fit(read_config(folder))
    with tempfile.TemporaryDirectory() as name:
        exported, back = Path(name) / "exported", Path(name) / "back"
        export_hf(folder, exported, without_modules=bool(reason))
        import_hf(exported, back)
        ours, theirs = open_weights(folder), open_weights(back)
        names = list(expected_shapes(read_config(back)))
        differing = [tensor for tensor in names if not torch.equal(ours.read(tensor), theirs.read(tensor))]
    if differing:
        return Gate(False, f"{len(differing)} of {len(names)} tensors differ after export and import ({differing[0]})")
    without = f" (without the prediction modules: {reason})" if reason else ""
    return Gate(True, f"{len(names)} tensors identical after export and import{without}")
