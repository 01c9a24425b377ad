"""Evaluate a model folder on prepared data: held-out loss, agreement and calibration, then true acceptance.

A table of contents: plan, measure each part, report. Where parts run and are kept is the caller's choice
(jobs/evaluate.py spreads them over a cluster); how anything is measured lies beside.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mtp.errors import MTPError
from mtp.evaluate.decoding import PromptCounts, summary
from mtp.evaluate.held_out import expected_calibration_error
from mtp.evaluate.parts import (
    EvaluationPlan,
    EvaluationSettings,
    Part,
    RowSums,
    measure_part,
    plan_evaluation,
    put_together,
)
from mtp.evaluate.report import DomainReport, EvaluationReport, ReliabilityBin
from mtp.objective import horizon_metrics


def evaluate(model_dir: str | Path, data_path: str | Path, **settings: Any) -> EvaluationReport:
    """Measure the model in `model_dir` on the prepared data set at `data_path`, in this process.

    Args:
        model_dir: config.json, model.safetensors, tokenizer.json.
        data_path: one split, such as `data/validation`.
        settings: the other fields of `EvaluationSettings`.

    Raises:
        UsageError: a data set was made with another tokenizer than the model's, or window and stride do not fit.
        MTPError: a file is missing or damaged, the rows hold nothing to predict, or the loss is not finite.
    """
    chosen = EvaluationSettings(data=str(data_path), **settings)
    plan = plan_evaluation(model_dir, chosen)
    parts = [measure_part(model_dir, chosen, plan, spec) for spec in plan.parts]
    return report_of(str(model_dir), chosen, plan, parts)


def report_of(
    model: str, settings: EvaluationSettings, plan: EvaluationPlan, parts: Sequence[Part]
) -> EvaluationReport:
    """What all parts of a plan say together; `model` is how the report names the model.

    Raises:
        MTPError: the rows hold nothing to predict.
    """
    domains = put_together(parts)
    rows, counts = domains[""]
    metrics = horizon_metrics(torch.tensor(rows.sums))
    n = len(rows.sums[0])
    tokens, perplexity, bits = _of_horizon_1(rows, settings.data)
    return EvaluationReport(
        model=model,
        data=settings.data,
        rows=plan.rows[""],
        tokens=tokens,
        window=plan.window,
        stride=plan.stride,
        perplexity=perplexity,
        bits_per_byte=bits,
        loss=[metrics[f"loss_h{k}"] for k in range(1, n + 1)],
        top1=[metrics[f"top1_h{k}"] for k in range(1, n + 1)],
        agreement=_agreement(metrics, n),
        ece=expected_calibration_error(torch.tensor(rows.calibration)),
        reliability=_reliability(rows),
        predicted_tokens_per_step=metrics["predicted_tokens_per_step"],
        decoding=summary(counts) if counts else None,
        domains={
            name: _domain(settings.domains.get(name, settings.data), *found) for name, found in domains.items() if name
        },
    )


def _domain(data: str, rows: RowSums, counts: PromptCounts | None) -> DomainReport:
    tokens, perplexity, bits = _of_horizon_1(rows, data)
    decoding = summary(counts) if counts else None
    return DomainReport(
        data=data,
        tokens=tokens,
        perplexity=perplexity,
        bits_per_byte=bits,
        agreement=_agreement(horizon_metrics(torch.tensor(rows.sums)), len(rows.sums[0])),
        acceptance=decoding.acceptance if decoding else [],
        tokens_per_step=decoding.tokens_per_step if decoding else 1.0,
    )


def _of_horizon_1(rows: RowSums, data: str) -> tuple[int, float, float]:
    """(targets, perplexity, bits per byte)."""
    nats, targets = rows.sums[0][0], int(rows.sums[2][0])
    if not targets:
        raise MTPError(f"the rows read from {data} hold no token to predict; raise evaluate.max_rows")
    return targets, math.exp(min(nats / targets, 700.0)), nats / math.log(2) / max(rows.target_bytes, 1)


def _agreement(metrics: dict[str, float], n: int) -> list[float]:
    return [metrics[f"agreement_h{k}"] for k in range(2, n + 1)]


def _reliability(rows: RowSums) -> list[list[ReliabilityBin]]:
    counts, confidence, correct = rows.calibration
    return [
        [
            ReliabilityBin(count=int(count), confidence=sure / max(count, 1), correct=right / max(count, 1))
            for count, sure, right in zip(*of_horizon, strict=True)
        ]
        for of_horizon in zip(counts, confidence, correct, strict=True)
    ]
