"""Loss, top-1, agreement and calibration of every horizon on held-out text, and the bytes behind its targets.

Knows a model, windows and a tokenizer's bytes; knows nothing of files or of decoding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtp.config import ObjectiveConfig
from mtp.evaluate.documents import Windows
from mtp.model import MTPModel
from mtp.objective import SUMS, MTPObjective, Targets

BINS = 10
"""Equal parts of [0, 1] that confidences are sorted into."""
_CHUNK = 1024
"""Positions whose logits are held at once."""


@dataclass(frozen=True)
class HeldOut:
    """Sums over the windows of one measurement; those of two measurements add up."""

    sums: Tensor
    """(6, n) float64, rows as `mtp.objective.SUMS`; every token weighs 1."""
    calibration: Tensor
    """(3, n, BINS) float64: of the targets whose most likely token has a probability in the bin, how many there are,
    the sum of those probabilities, and how often that token is the target."""
    target_bytes: int
    """Bytes of text of the targets of horizon 1."""


@torch.inference_mode()
def measure_held_out(model: MTPModel, windows: Windows, token_bytes: Tensor, batch_size: int) -> HeldOut:
    """Run the windows through the model, `batch_size` at a time.

    Args:
        model: in evaluation mode.
        windows: what to read, and which tokens count; there may be none.
        token_bytes: (V,) int64, bytes of text that each id stands for.
        batch_size: rows a forward.
    """
    device = model.lm_head.weight.device
    n = model.config.n_future
    objective = MTPObjective(ObjectiveConfig(), n)
    lambdas = torch.ones(n, device=device)
    token_bytes = token_bytes.to(device)
    sums = torch.zeros(len(SUMS), n, dtype=torch.float64, device=device)
    calibration = torch.zeros(3, n, BINS, dtype=torch.float64, device=device)
    target_bytes = 0
    parts = (windows.tokens, windows.document, windows.countable)
    for start in range(0, len(windows.tokens), batch_size):
        rows, ordinals, countable = (part[start : start + batch_size].to(device) for part in parts)
        targets = objective.targets(rows, ordinals, countable)
        hiddens = model(rows, ordinals)
        sums += objective(hiddens, model.heads(), targets, lambdas, objective.denominators(targets)).sums()
        for k, (hidden, head) in enumerate(zip(hiddens, model.heads(), strict=True)):
            valid = targets.valid[k]
            calibration[:, k] += _calibration(hidden[valid], head, targets.ids[k][valid])
        target_bytes += _bytes_of_targets(targets, token_bytes)
    return HeldOut(sums.cpu(), calibration.cpu(), target_bytes)


def _calibration(hidden: Tensor, head: Tensor, ids: Tensor) -> Tensor:
    """(3, BINS) of positions (P, d) with targets (P,)."""
    table = torch.zeros(3, BINS, dtype=torch.float64, device=hidden.device)
    for some, wanted in zip(hidden.split(_CHUNK), ids.split(_CHUNK), strict=True):
        confidence, choice = torch.softmax(some @ head.T, dim=-1).max(dim=-1)
        place = (confidence * BINS).long().clamp(max=BINS - 1)
        rows = (torch.ones_like(confidence), confidence, choice == wanted)
        table += torch.stack([table.new_zeros(BINS).index_add(0, place, row.double()) for row in rows])
    return table


def expected_calibration_error(calibration: Tensor) -> list[float]:
    """ECE of each horizon, (3, n, BINS) -> n: the mean gap between confidence and how often it was right.

    sum over bins of (count / all) * |correct / count - confidence / count|  (Guo et al. 2017, eq. 3).
    """
    counts, confidence, correct = calibration.double()
    return ((correct - confidence).abs().sum(-1) / counts.sum(-1).clamp(min=1)).tolist()


def _bytes_of_targets(targets: Targets, token_bytes: Tensor) -> int:
    return int(token_bytes[targets.ids[0][targets.valid[0]]].sum())
