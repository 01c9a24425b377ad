"""The comparison of approaches, decoders and settings under one token budget."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from mtp.config.base import Section

TableName = Literal["approaches", "decoders", "ablations", "convergence", "acceptance"]


class CompareConfig(Section):
    """`mtp compare`: every model reads the same tokens in the same order; what differs is one thing a row."""

    name: str = "comparison"
    """Of the MLflow run; the same name and settings go on with an interrupted comparison."""
    tokens: PositiveInt = 500_000
    """Read in the training of each model."""
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """Of the initial weights; the spread of a cell is over them."""
    ablation_seeds: tuple[NonNegativeInt, ...] = (0,)
    tables: tuple[TableName, ...] = ("approaches", "decoders", "ablations", "convergence", "acceptance")
    ablations: tuple[Literal["future tokens", "depth", "lambda", "schedule", "importance"], ...] = (
        "future tokens",
        "depth",
        "lambda",
        "schedule",
        "importance",
    )
    byte_data: str | None = None
    """The same text prepared with data.vocab_size 257, which is a token a byte: adds two rows to the approaches."""
    perplexities: tuple[PositiveFloat, ...] = (400.0, 200.0, 100.0, 70.0, 50.0)
    """The ladder of the table of convergence."""
    curve_points: PositiveInt = 20
    """Measurements of held-out perplexity during a training."""
    curve_rows: PositiveInt = 16
    """Held-out rows of each."""
    draft_hidden_size: PositiveInt = 64
    """Of the small model that drafts for the decoder `draft_model`, trained in the same budget; it has one layer."""
    workers: PositiveInt = 2
    """Trainings at a time."""
    cpus: PositiveFloat = 0.5
    """What each reserves on the cluster."""
