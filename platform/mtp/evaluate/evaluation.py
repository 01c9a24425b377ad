"""Evaluate a model folder on a prepared data set: held-out loss and agreement, then true acceptance.

A table of contents: read, check, measure, report. Knows files and their owners; how anything is measured lies beside.
"""

import math
from pathlib import Path

import torch

from mtp.checkpoint import load_model
from mtp.data import PreparedDataset, open_dataset, read_rows
from mtp.errors import MTPError, UsageError
from mtp.evaluate.decoding import held_out_prompts, measure_decoding
from mtp.evaluate.held_out import measure_held_out
from mtp.evaluate.report import Decoding, EvaluationReport
from mtp.model import MTPModel
from mtp.objective import horizon_metrics
from mtp.tokenizer import Tokenizer


def evaluate(
    model_dir: str | Path,
    data_path: str | Path,
    *,
    max_rows: int = 256,
    batch_size: int = 8,
    prompts: int = 16,
    prompt_tokens: int = 64,
    new_tokens: int = 64,
    device: str = "cpu",
) -> EvaluationReport:
    """Measure the model in `model_dir` on the first `max_rows` rows of the prepared data set at `data_path`.

    Args:
        model_dir: config.json, model.safetensors, tokenizer.json.
        data_path: one split, such as `data/validation`.
        max_rows: rows for loss and agreement; prompts are beginnings of some of them.
        batch_size: rows a forward.
        prompts: how many are continued to measure acceptance and speed; 0 leaves that out.
        prompt_tokens: tokens of a prompt.
        new_tokens: most tokens of a continuation.
        device: as PyTorch names it.

    Raises:
        UsageError: the data set was made with another tokenizer than the model's.
        MTPError: a file is missing or damaged, the rows hold nothing to predict, or the loss is not finite.
    """
    dataset = open_dataset(data_path)
    tokenizer = _shared_tokenizer(Path(model_dir), dataset)
    model = load_model(model_dir, device, _dtype(device))
    tokens, document = read_rows(dataset, limit=max_rows)
    token_bytes = torch.tensor([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])
    held_out = measure_held_out(model, tokens, document, token_bytes, batch_size)
    metrics = horizon_metrics(held_out.sums)
    nats, targets = held_out.sums[0, 0].item(), int(held_out.sums[2, 0])
    if not targets:
        raise MTPError(f"the {len(tokens)} rows read from {data_path} hold no token to predict; raise max_rows")
    if not math.isfinite(nats):
        raise MTPError(f"the loss of {model_dir} on {data_path} is not finite; the model has diverged")
    n = model.config.n_future
    return EvaluationReport(
        model=str(model_dir),
        data=str(data_path),
        rows=len(tokens),
        tokens=targets,
        perplexity=math.exp(min(nats / targets, 700.0)),
        bits_per_byte=nats / math.log(2) / max(held_out.target_bytes, 1),
        loss=[metrics[f"loss_h{k}"] for k in range(1, n + 1)],
        top1=[metrics[f"top1_h{k}"] for k in range(1, n + 1)],
        agreement=[metrics[f"agreement_h{k}"] for k in range(2, n + 1)],
        predicted_tokens_per_step=metrics["predicted_tokens_per_step"],
        decoding=_decoding(model, held_out_prompts(tokens, document, prompts, prompt_tokens), new_tokens, tokenizer),
    )


def _decoding(model: MTPModel, prompts: list[list[int]], new_tokens: int, tokenizer: Tokenizer) -> Decoding | None:
    return measure_decoding(model, prompts, new_tokens, (tokenizer.eos_id,)) if prompts else None


def _shared_tokenizer(model_dir: Path, dataset: PreparedDataset) -> Tokenizer:
    tokenizer = Tokenizer.load(model_dir)
    if tokenizer != dataset.tokenizer:
        raise UsageError(
            f"{dataset.location} was prepared with another tokenizer than the model's in {model_dir}; "
            f"evaluate on data prepared with the model's tokenizer"
        )
    return tokenizer


def _dtype(device: str) -> torch.dtype | None:
    """CPUs compute in fp32 whatever is stored: bf16 matrices are many times slower there."""
    return torch.float32 if torch.device(device).type == "cpu" else None
