"""Loss, top-1 and agreement of every horizon on held-out rows, and the bytes of text behind their targets.

Knows a model, rows and a tokenizer's bytes; knows nothing of files or of decoding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtp.config import ObjectiveConfig
from mtp.model import MTPModel
from mtp.objective import SUMS, MTPObjective, Targets


@dataclass(frozen=True)
class HeldOut:
    """Sums over the rows of one measurement."""

    sums: Tensor
    """(6, n) float64, rows as `mtp.objective.SUMS`; every token weighs 1."""
    target_bytes: int
    """Bytes of text of the targets of horizon 1."""


@torch.inference_mode()
def measure_held_out(
    model: MTPModel, tokens: Tensor, document: Tensor, token_bytes: Tensor, batch_size: int
) -> HeldOut:
    """Run the rows through the model, `batch_size` at a time.

    Args:
        model: in evaluation mode.
        tokens: (R, T) int64.
        document: (R, T) int32, -1 = padding.
        token_bytes: (V,) int64, bytes of text that each id stands for.
        batch_size: rows a forward.
    """
    device = model.lm_head.weight.device
    objective = MTPObjective(ObjectiveConfig(), model.config.n_future)
    lambdas = torch.ones(model.config.n_future, device=device)
    sums = torch.zeros(len(SUMS), model.config.n_future, dtype=torch.float64, device=device)
    target_bytes = 0
    for rows, ordinals in zip(tokens.split(batch_size), document.split(batch_size), strict=True):
        rows, ordinals = rows.to(device), ordinals.to(device)
        targets = objective.targets(rows, ordinals)
        hiddens = model(rows, ordinals)
        sums += objective(hiddens, model.heads(), targets, lambdas, objective.denominators(targets)).sums()
        target_bytes += _bytes_of_targets(targets, token_bytes.to(device))
    return HeldOut(sums.cpu(), target_bytes)


def _bytes_of_targets(targets: Targets, token_bytes: Tensor) -> int:
    return int(token_bytes[targets.ids[0][targets.valid[0]]].sum())
