"""Trains a model in this one process with plain PyTorch: no sharding, no checkpoints, no stream.

For many small models side by side (`mtp compare`) and for prediction modules on a finished backbone (`mtp refresh`),
where starting a group of workers would take longer than the training. The loss, the schedules, the row order and the
balance of experts are those of `fit`. Knows a model and rows; knows nothing of Ray, registries or files.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp.config import Config
from mtp.data import TrainingData
from mtp.errors import MTPError
from mtp.model import MTPModel
from mtp.model.moe import MoE
from mtp.objective import MTPObjective, lambdas_at, token_importance
from mtp.train.continuations import Batch, with_continuations
from mtp.train.loss_module import LossModule
from mtp.train.parameters import parameter_groups
from mtp.train.schedule import lr_at


@dataclass(frozen=True)
class PlainStep:
    """One step that was made."""

    step: int
    """From 1."""
    tokens: int
    """Read so far."""
    loss: float
    seconds: float
    """Of training so far, whatever the caller did between steps left out."""


def train_plain(
    model: MTPModel, data: TrainingData, config: Config, steps: int, continuations: float = 0.0
) -> Iterator[PlainStep]:
    """Train `model` in place, a step at each turn of the iteration.

    `config.train` gives batch, optimizer and schedule, `config.objective` the loss, `config.data.seed` the row order.
    With `objective.detach_backbone` the modules alone move: neither weights nor expert biases of the backbone do. Then
    a share of the rows may be `continuations` of the model's own (continuations.py).

    Raises:
        MTPError: the loss or a gradient is not finite, or rows are damaged.
    """
    train = config.train
    objective = MTPObjective(config.objective, model.config.n_future, importance_of(config, data))
    module = LossModule(model.train(), objective, document_mask=train.document_mask)
    groups = parameter_groups(module, train.optimizer.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=train.optimizer.lr, betas=train.optimizer.betas, eps=train.optimizer.eps)
    layers = _moving_experts(model, config.objective.detach_backbone)
    device = model.lm_head.weight.device
    batches = with_continuations(_batches(data, config, steps), model, continuations)
    seen, seconds = 0, 0.0
    for step in range(steps):
        began = time.perf_counter()
        tokens, document = (torch.from_numpy(part).to(device) for part in next(batches))
        weights = lambdas_at(config.objective.lambdas, model.config.n_future, step, steps, seen)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(train.lr_schedule, train.optimizer.lr, step, steps)
        loss = _step(module, optimizer, tokens, document, weights, train.optimizer.grad_clip, step)
        for layer in layers:
            layer.update_expert_bias(layer.tokens_per_expert.double(), config.objective.bias_update_speed)
        for layer in model.expert_layers():
            layer.reset_counts()
        seen += int((document >= 0).sum())
        seconds += time.perf_counter() - began
        yield PlainStep(step + 1, seen, loss, seconds)
    model.eval()


def train_modules(model: MTPModel, data: TrainingData, config: Config, steps: int) -> Iterator[PlainStep]:
    """Train the prediction modules of a finished model alone, in place, as `config.refresh` has it; see train_plain."""
    update = {"detach_backbone": True, "distillation": config.refresh.distillation}
    objective = config.objective.model_copy(update=update)
    chosen = config.model_copy(update={"objective": objective, "model": model.config})
    torch.manual_seed(config.train.seed)
    return train_plain(model, data, chosen, steps, config.refresh.continuations)


def _batches(data: TrainingData, config: Config, steps: int) -> Iterator[Batch]:
    order, size = data.order(config.data.seed), config.train.batch_size
    for step in range(steps):
        tokens, document = data.take(*order.places(step * size, (step + 1) * size))
        yield tokens.astype("int64"), document.astype("int64")


def importance_of(config: Config, data: TrainingData) -> Tensor | None:
    """Token weights of the corpus; None where every token counts alike."""
    importance = config.objective.importance
    if importance.kind == "uniform":
        return None
    counts = torch.zeros(config.model.vocab_size, dtype=torch.float64)
    pieces = list(data.tokenizer.pieces)
    counts[: len(pieces)] = torch.from_numpy(data.token_counts()).double()
    return token_importance(importance, counts, pieces + [""] * (len(counts) - len(pieces)))


def _step(
    module: LossModule,
    optimizer: torch.optim.Optimizer,
    tokens: Tensor,
    document: Tensor,
    lambdas: list[float],
    clip: float,
    step: int,
) -> float:
    objective = module.objective
    targets = objective.targets(tokens, document)
    weights = torch.tensor(lambdas, dtype=torch.float32, device=tokens.device)
    loss, _ = module(tokens, document, targets.ids, targets.weights, weights, objective.denominators(targets), 1.0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    if not bool(torch.isfinite(norm)):
        raise MTPError(f"step {step + 1}: the gradient is not finite; lower train.optimizer.lr")
    optimizer.step()
    return float(loss.detach())


def _moving_experts(model: MTPModel, detached: bool) -> list[MoE]:
    part = model.prediction if detached else model
    return [layer for layer in part.modules() if isinstance(layer, MoE)]
