"""The Ray Serve application."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mtp.config.base import Section


class ServeConfig(Section):
    """One served model: where it listens and how its replicas decode."""

    app_name: str = "mtp"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, gt=0, lt=65536)
    num_replicas: PositiveInt = 1
    num_cpus: PositiveFloat = 0.5
    num_gpus: float = Field(default=0, ge=0)
    num_threads: PositiveInt = 1
    """Threads of one replica's tensor operations on the CPU."""
    max_ongoing_requests: PositiveInt = 32
    max_queued_requests: NonNegativeInt = 64
    """Completions beyond max_ongoing_requests that a replica accepts; more are answered with 429."""
    max_batch_size: PositiveInt = 8
    """Requests that one replica decodes together."""
    max_model_len: PositiveInt | None = None
    """Longest prompt plus completion, in tokens; unset: the model's max_position_embeddings."""
    max_batch_tokens: PositiveInt = 512
    """Tokens that one step computes; longer prompts are taken in chunks beside the running ones."""
    cache_blocks: PositiveInt | None = None
    """Blocks (of 16 tokens) of the latent cache; unset: enough for max_batch_size requests of max_model_len."""
    prefix_caching: bool = True
    """Keep what requests computed for later ones that begin alike, while nobody needs the memory."""
    decoder: Literal["standard", "mtp"] = "mtp"
    num_draft_tokens: NonNegativeInt | None = None
    """Drafts a step; unset: n_future - 1."""
