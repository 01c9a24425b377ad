"""What an evaluation reads, and how much of it."""

from pydantic import PositiveInt

from mtp.config.base import Section


class EvaluateConfig(Section):
    """Perplexity and agreement on held-out rows; acceptance on the model's own continuations of held-out prompts."""

    model: str | None = None
    """Model URI; unset: the newest `candidate` of tracking.model_name."""
    data: str | None = None
    """Prepared data set; unset: `validation` under data.path."""
    max_rows: PositiveInt = 256
    batch_size: PositiveInt = 8
    prompts: PositiveInt = 16
    """Held-out prompts that are continued to measure acceptance and speed."""
    prompt_tokens: PositiveInt = 64
    new_tokens: PositiveInt = 64
