"""What a version must show before an alias moves to it."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mtp.config.base import Section


class PromoteConfig(Section):
    """Gates of `mtp promote`; null leaves one out."""

    max_perplexity_increase: NonNegativeFloat | None = 0.05
    """Perplexity may be above the champion's by this share of it."""
    min_tokens_per_step: PositiveFloat | None = 1.0
    """Tokens per step of greedy decoding with the most drafts, as evaluated."""
    audit_samples: NonNegativeInt | None = 1000
    """Outputs that each decoder draws in the audit of exactness; null: no audit."""
    audit_prompts: PositiveInt = 8
    """Prompts whose greedy outputs the audit compares."""
    round_trip: bool = True
    """Export to the public layout and import again must give the same weights; kinds of modules that the layout cannot
    hold are compared without them."""
