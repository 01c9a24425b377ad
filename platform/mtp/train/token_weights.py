"""Importance weights of the data set's tokens, laid out over the model's vocabulary. Knows no ranks and no steps."""

import torch

from mtp.config import Config
from mtp.data import TrainingData
from mtp.objective import token_importance


def token_weights(config: Config, data: TrainingData) -> torch.Tensor | None:
    """(V,) weights from the corpus' counts; None where every token counts alike."""
    importance = config.objective.importance
    if importance.kind == "uniform":
        return None
    counts = torch.zeros(config.model.vocab_size, dtype=torch.float64)
    pieces = list(data.tokenizer.pieces)
    counts[: len(pieces)] = torch.from_numpy(data.token_counts()).double()
    return token_importance(importance, counts, pieces + [""] * (len(counts) - len(pieces)))
