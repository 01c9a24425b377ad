"""A probe at load: do the prediction modules still do what they did when the model was made?

A checkpoint with missing, swapped or wrongly wired tensors loads, and decodes exactly: only slowly, since every draft
is rejected. So a model folder carries `probe.json`: a few rows of tokens, and what each horizon made of them. Loading
computes the same again (one forward pass) and refuses a model whose horizons have collapsed, saying what it saw.

A folder without a record (made elsewhere) is held to less: the modules of a model that has learnt something must agree
with it more often than somebody who always says its commonest word. Knows rows of ids; nothing of text.

The record also says how many drafts stood when the model continued those rows: what a controller believes at first.
"""

import json
import math
from collections.abc import Sequence as Items
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mtp.decode.generation import generate
from mtp.decode.options import EngineOptions
from mtp.decode.request import Sampling, Speculation
from mtp.decode.stats import DecodeStats
from mtp.errors import MTPError
from mtp.model import MTPModel

FILE_NAME = "probe.json"
ROWS, LENGTH = 8, 64
CONTINUED = 128
"""Tokens for which the model goes on with a row. The first of them are the hardest to draft: a model that has just been
given somebody else's text is soon on its own."""
LOSS_SLACK = 0.05
"""Nats, and again this share of the recorded loss, by which a horizon may be worse: rounding, another machine."""
AGREEMENT_SLACK = 0.08
"""Share of the places at which a horizon may agree less."""
LEARNT = 0.7
"""A backbone whose entropy on its own text is below this share of ln V has learnt something."""


@dataclass(frozen=True)
class Probe:
    """What a model made of some rows."""

    rows: list[list[int]]
    """Token ids, all rows of one length."""
    loss: list[float]
    """Mean cross-entropy of horizons 1..n on them, in nats."""
    agreement: list[float]
    """Of horizons 2..n: share of the places where the horizon's argmax is the backbone's own for the same token."""
    commonest: float
    """Share of the places that the backbone's commonest argmax has."""
    acceptance: tuple[float, ...] = ()
    """Share of drafts 1, 2, ... that stood where those before them did; empty where it was not measured."""


@torch.inference_mode()
def measure_probe(model: MTPModel, rows: Items[Items[int]]) -> Probe:
    """One forward pass over `rows` (R of one length T > n_future)."""
    tokens = torch.tensor([list(row) for row in rows], device=model.lm_head.weight.device)
    choices: list[Tensor] = []
    losses = []
    for k, hidden in enumerate(model(tokens), start=1):
        logits = model.logits(hidden[:, :-k], horizon=k).float()  # (R, T - k, V): slot i predicts t_{i+k}
        losses.append(float(cross_entropy(logits.flatten(0, 1), tokens[:, k:].flatten())))
        choices.append(logits.argmax(-1))
    own = choices[0]
    agreement = [float((choice == own[:, k:]).double().mean()) for k, choice in enumerate(choices[1:], start=1)]
    commonest = float(own.flatten().bincount().max()) / own.numel()
    return Probe([list(row) for row in rows], losses, agreement, commonest)


def record_probe(folder: str | Path, model: MTPModel, rows: Items[Items[int]] | None = None) -> Probe:
    """Measure and keep it in the model's folder, for every later load; rows that the model writes itself by default."""
    rows = own_rows(model) if rows is None else rows
    probe = replace(measure_probe(model, rows), acceptance=measure_acceptance(model, rows))
    file = Path(folder) / FILE_NAME
    partial = file.with_name(f".{FILE_NAME}.partial")
    partial.write_text(json.dumps(asdict(probe)), encoding="utf-8")
    partial.replace(file)
    return probe


def measure_acceptance(model: MTPModel, rows: Items[Items[int]]) -> tuple[float, ...]:
    """Let the model go on greedily from the first half of each row, with as many drafts as it has horizons for.

    Returns:
        The share of drafts 1, 2, ... that stood, of those before which all did; empty for a model without modules.
    """
    if model.config.n_future < 2:
        return ()
    half = max(1, len(rows[0]) // 2)
    prompts = [list(row[:half]) for row in rows]
    length = min(half + CONTINUED, model.config.max_position_embeddings)
    options = EngineOptions(max_batch_size=len(rows), max_model_len=length)
    sampling = Sampling(max_tokens=length - half, ignore_eos=True)
    total = DecodeStats()
    for found in generate(model, prompts, sampling, Speculation(decoder="mtp"), options=options):
        total.add(found.stats)
    shares = total.acceptance_per_position
    return tuple(share / before if before else 0.0 for before, share in pairwise([1.0, *shares]))


def recorded_acceptance(folder: str | Path) -> tuple[float, ...]:
    """Of the record in a model's folder; empty where it has none."""
    probe = read_probe(folder)
    return () if probe is None else probe.acceptance


def own_rows(model: MTPModel, count: int = ROWS, length: int = LENGTH) -> list[list[int]]:
    """`count` rows of `length` tokens (or the model's context) sampled from the model, always the same ones."""
    length = min(length, model.config.max_position_embeddings)
    starts = [[number * 7919 % model.config.vocab_size] for number in range(1, count + 1)]
    options = EngineOptions(max_batch_size=min(count, 32), max_model_len=length)
    sampling = Sampling(max_tokens=length - 1, temperature=1.0, seed=1)
    found = generate(model, starts, sampling, Speculation(decoder="standard"), options=options)
    return [start + one.tokens for start, one in zip(starts, found, strict=True)]


def check_probe(folder: str | Path, model: MTPModel) -> Probe | None:
    """Hold a loaded model to the record in its folder; what was seen now, or None where there is nothing to compare.

    Raises:
        MTPError: a horizon has collapsed; which, what it was and what it is. Or the record cannot be read.
    """
    recorded = read_probe(folder)
    if recorded is None:
        return _check_without_record(folder, model)
    seen = measure_probe(model, recorded.rows)
    troubles = _differences(recorded, seen)
    if troubles:
        raise MTPError(
            f"the model in {folder} is not what it was when it was made: {'; '.join(troubles)}; tensors are damaged, "
            f"swapped or wired in another way; fetch or export it again, or delete its {FILE_NAME} to take it as it is"
        )
    return seen


def read_probe(folder: str | Path) -> Probe | None:
    """The record in a model's folder, if it has one.

    Raises:
        MTPError: it is no probe.
    """
    file = Path(folder) / FILE_NAME
    if not file.is_file():
        return None
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        rows = [[int(token) for token in row] for row in tree["rows"]]
        losses, agreement = [float(x) for x in tree["loss"]], [float(x) for x in tree["agreement"]]
        acceptance = tuple(float(x) for x in tree.get("acceptance", ()))
        if not all(0 <= share <= 1 for share in acceptance):
            raise ValueError(f"acceptance {acceptance} is no share")
        return Probe(rows, losses, agreement, float(tree["commonest"]), acceptance)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MTPError(f"{file} is damaged ({error}); fetch the model again, or delete the file") from None


def _differences(recorded: Probe, seen: Probe) -> list[str]:
    troubles = []
    for k, (was, now) in enumerate(zip(recorded.loss, seen.loss, strict=True), start=1):
        if not now <= was + LOSS_SLACK * (1 + was):  # NaN too
            troubles.append(f"the loss of horizon {k} was {was:.2f} and is {now:.2f} nats")
    for k, (was, now) in enumerate(zip(recorded.agreement, seen.agreement, strict=True), start=2):
        if now < was - AGREEMENT_SLACK:
            troubles.append(
                f"horizon {k} agreed with the model's own choice in {was:.0%} of the places, now in {now:.0%}"
            )
    return troubles


def _check_without_record(folder: str | Path, model: MTPModel) -> Probe | None:
    if model.config.n_future < 2:
        return None
    seen = measure_probe(model, own_rows(model, length=LENGTH // 2))
    learnt = seen.loss[0] < LEARNT * math.log(model.config.vocab_size)
    if learnt and seen.agreement[0] <= seen.commonest and seen.loss[1] > math.log(model.config.vocab_size):
        raise MTPError(
            f"the prediction modules of the model in {folder} have collapsed: on text of the model's own, horizon 2 "
            f"agrees with it in {seen.agreement[0]:.0%} of the places; always guessing its commonest token would in "
            f"{seen.commonest:.0%}; tensors are missing, swapped or wired in another way; export the model again"
        )
    return seen
