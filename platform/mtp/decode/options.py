"""The sizes of an engine: what it may hold and how much it does in a step."""

from dataclasses import dataclass
from typing import Literal

from mtp.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Bounds of memory and of a step's work."""

    max_batch_size: int = 8
    """Requests that run together."""
    max_model_len: int | None = None
    """Longest prompt plus output; None: the model's max_position_embeddings."""
    max_batch_tokens: int = 512
    """Tokens that one step computes, drafts included; longer prompts are taken in chunks."""
    block_size: int = 16
    """Tokens in one block of the cache."""
    cache_blocks: int | None = None
    """Blocks of the cache; None: enough for max_batch_size requests of max_model_len."""
    max_draft_tokens: int | None = None
    """Most drafts a step; None: n_future - 1."""
    adaptive_drafts: bool = False
    """Let the engine choose the draft length, step by step, of requests of decoder mtp that leave it open."""
    expected_acceptance: tuple[float, ...] = ()
    """Chance of drafts 1, 2, ... to stand once those before them do, as it was measured of the model: what adaptive
    drafts begin with. Drafts that are not named are believed to stand three times in four."""
    draft_vocab_size: int | None = None
    """Drafts come from the first so many ids (the tokenizer's earliest merges, so about the most frequent tokens);
    None: from all. The output does not depend on it."""
    prefix_caching: bool = True
    """Keep the blocks of finished requests for later ones that begin alike, as long as nobody needs the memory."""

    compiled_step: Literal["auto", "on", "off"] = "auto"
    """The C++ step on the processor: auto falls back to PyTorch where there is no compiler; on fails there."""
    quantization: Literal["auto", "none", "drafts", "int8"] = "none"
    """What the compiled step reads as 8-bit whole numbers. drafts: the prediction modules and their heads; the output
    does not depend on it. auto: drafts where the compiled step runs, else none. int8: the backbone's linear layers too;
    changes the model's numbers a little."""

    def __post_init__(self) -> None:
        if self.draft_vocab_size is not None and self.draft_vocab_size < 1:
            raise UsageError(f"draft_vocab_size is {self.draft_vocab_size}; it must be at least 1")
        if not all(0 <= chance <= 1 for chance in self.expected_acceptance):
            raise UsageError(f"expected_acceptance is {self.expected_acceptance}; chances lie between 0 and 1")
        for name in ("max_batch_size", "max_batch_tokens", "block_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
