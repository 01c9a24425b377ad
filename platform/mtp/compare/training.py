"""Trains one variant and measures it: cost, curve of perplexity, evaluation, divergence of lossy rules.

One process, plain PyTorch (mtp.train.plain). Knows one variant; nothing of the others, of tables or of clusters.
"""

import math
from pathlib import Path

import torch
from pydantic import BaseModel

from mtp.checkpoint import save_model
from mtp.compare.divergence import RULES, mean_divergence
from mtp.compare.plan import TrainSpec, training_steps
from mtp.data import open_dataset, open_training_data, read_rows
from mtp.evaluate import EvaluationReport, EvaluationSettings, evaluate
from mtp.evaluate.documents import documents_of_rows, windows_of
from mtp.evaluate.held_out import measure_held_out
from mtp.model import MTPModel
from mtp.model.accounting import flops_per_token, parameter_counts
from mtp.train.plain import train_plain

_STATE_BYTES = 16
"""Of a parameter in training: weight, gradient, Adam's two moments, 4 bytes each."""


class CurvePoint(BaseModel):
    """Held-out perplexity during a training."""

    step: int
    tokens: int
    seconds: float
    """Of training alone."""
    perplexity: float


class TrainedModel(BaseModel):
    """One variant, trained and measured."""

    labels: tuple[str, ...]
    seed: int
    folder: str
    steps: int
    tokens: int
    seconds: float
    flops_per_token: float
    parameters: int
    state_bytes: int
    """Weights, gradients and optimizer state; activations left out."""
    curve: list[CurvePoint]
    report: EvaluationReport
    divergence: dict[str, float]
    """Rule -> total variation of a token emitted at draft position 1 against exact sampling; empty without drafts."""


def train_variant(spec: TrainSpec, folder: Path, settings: EvaluationSettings) -> TrainedModel:
    """Train, keep the model in `folder`, measure.

    Raises:
        UsageError: the data was prepared with another vocabulary than the model's.
        MTPError: training diverged, or data is damaged.
    """
    config = spec.config
    torch.manual_seed(spec.seed)
    model = MTPModel(config.model)
    data = open_training_data(config.data)
    held_out = open_dataset(settings.data)
    rows = min(config.compare.curve_rows, held_out.manifest.rows)
    windows = windows_of(
        documents_of_rows(held_out, 0, rows, rows), held_out.manifest.seq_len, held_out.manifest.seq_len // 2
    )
    nothing = torch.zeros(config.model.vocab_size, dtype=torch.int64)
    steps = training_steps(config)
    every = max(steps // config.compare.curve_points, 1)
    curve = []
    for done in train_plain(model, data, config, steps):
        last = done
        if done.step % every and done.step != steps:
            continue
        sums = measure_held_out(model.eval(), windows, nothing, settings.batch_size).sums
        model.train()
        perplexity = math.exp(min(float(sums[0, 0] / sums[2, 0]), 700.0))
        curve.append(CurvePoint(step=done.step, tokens=done.tokens, seconds=done.seconds, perplexity=perplexity))
    save_model(folder, model, data.tokenizer)
    report = evaluate(folder, settings.data, **settings.model_dump(exclude={"data"}))
    parameters = parameter_counts(config.model).total
    return TrainedModel(
        labels=spec.labels,
        seed=spec.seed,
        folder=str(folder),
        steps=steps,
        tokens=last.tokens,
        seconds=last.seconds,
        flops_per_token=flops_per_token(config.model, config.data.seq_len),
        parameters=parameters,
        state_bytes=parameters * _STATE_BYTES,
        curve=curve,
        report=report,
        divergence=_divergence(model, settings, rows),
    )


def _divergence(model: MTPModel, settings: EvaluationSettings, rows: int) -> dict[str, float]:
    if model.config.n_future == 1:
        return {}
    tokens, document = read_rows(settings.data, limit=rows)
    return {rule: mean_divergence(model, tokens, document, rule) for rule in RULES}
