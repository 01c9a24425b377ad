"""What an evaluation reads, and how much of it."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mtp.config.base import Section


class EvaluateConfig(Section):
    """Perplexity and agreement on held-out text; acceptance on the model's own continuations of held-out prompts."""

    model: str | None = None
    """Model URI; unset: the newest `candidate` of tracking.model_name."""
    data: str | None = None
    """Prepared data set; unset: `validation` under data.path."""
    domains: tuple[str, ...] = ()
    """Further prepared data sets (folders with a split `validation`), measured each for itself and called by their
    last name; unset: the sources of data.mixture."""
    largest_domains: NonNegativeInt = 0
    """So many domains of the data set itself (source folders, or values of data.domain_column; those with the most
    held-out tokens) are measured each for itself as well."""
    max_rows: PositiveInt = 256
    batch_size: PositiveInt = 8
    window: PositiveInt | None = None
    """Tokens that the model reads at once; unset: a row of the data."""
    stride: PositiveInt | None = None
    """Tokens by which windows of a long document advance; unset: half a window."""
    prompts: NonNegativeInt = 16
    """Held-out prompts that are continued to measure acceptance and speed."""
    prompt_tokens: PositiveInt = 64
    new_tokens: PositiveInt = 64
    temperature: NonNegativeFloat = 1.0
    """Of the sampled output whose acceptance is measured beside the greedy one's; 0 leaves it out."""
    tasks: tuple[str, ...] = ()
    """Task files of lm-eval (YAML) that the model is scored on, in this platform's engine; readable by the workers."""
    task_documents: PositiveInt | None = None
    """Documents of each task; unset: all."""
    workers: PositiveInt = 2
    """Parts of an evaluation that are measured at a time."""
    cpus: PositiveFloat = 0.5
    """What each of them reserves on the cluster; where training uses GPUs, one of them too."""
