"""Leaves the probe of a finished model in its folder (mtp.decode.probe), taken on held-out text."""

from pathlib import Path

import torch

from mtp.checkpoint import load_model
from mtp.data import read_rows
from mtp.decode.probe import LENGTH, ROWS, Probe, record_probe


def leave_probe(model_dir: str | Path, data_path: str | Path) -> Probe:
    """Measure the model in `model_dir` on the first rows of the split at `data_path`, for later loads to compare.

    Rows too short for the model's horizons are replaced by rows that the model writes itself.

    Raises:
        MTPError: the model or the data set is missing or damaged.
    """
    model = load_model(model_dir, dtype=torch.float32)
    tokens, _ = read_rows(data_path, limit=ROWS)
    length = min(LENGTH, tokens.shape[1], model.config.max_position_embeddings)
    rows = tokens[:, :length].tolist() if length > model.config.n_future else None
    return record_probe(model_dir, model, rows)
