"""What the engine refuses at the door, so that a bad request fails alone and before it costs anything."""

from dataclasses import dataclass

from mtp.config import ModelConfig
from mtp.decode.request import Request, Speculation
from mtp.errors import UsageError

MODULE_DECODERS = ("mtp", "parallel")
LOOKUP_DRAFTS = 4
"""Drafts a step of prompt lookup and of a draft model, unless the engine's options say otherwise."""


@dataclass(frozen=True)
class DraftLimits:
    """Most drafts a step, by where they come from."""

    modules: int
    lookup: int
    draft_model: int | None = None
    """None: the engine has no draft model."""

    @classmethod
    def of(cls, config: ModelConfig, max_draft_tokens: int | None, draft_model: bool = False) -> "DraftLimits":
        """The limits of a model: chained modules may recurse beyond their number, others have one draft a horizon."""
        trained = config.n_future - 1
        modules = trained if max_draft_tokens is None else max_draft_tokens
        if config.prediction.kind != "sequential":
            modules = min(modules, trained)
        others = LOOKUP_DRAFTS if max_draft_tokens is None else max_draft_tokens
        return cls(modules, others, others if draft_model else None)

    def choose(self, speculation: Speculation) -> int:
        """Most drafts a step of a request with this wish."""
        limit = self.most(speculation.decoder)
        return limit if speculation.num_draft_tokens is None else speculation.num_draft_tokens

    def most(self, decoder: str) -> int:
        """What this decoder could draft."""
        if decoder == "standard":
            return 0
        if decoder == "draft_model":
            return self.draft_model or 0
        return self.modules if decoder in MODULE_DECODERS else self.lookup


def is_adaptive(speculation: Speculation) -> bool:
    """Whether the engine's controller may choose the draft length."""
    return speculation.decoder == "mtp" and speculation.num_draft_tokens is None


def check_request(
    request: Request, config: ModelConfig, max_model_len: int, limits: DraftLimits, cache_tokens: int
) -> None:
    """Refuse a request that this model or this engine cannot serve.

    Args:
        request: the request.
        config: of the model.
        max_model_len: most tokens of prompt and output together.
        limits: most drafts a step.
        cache_tokens: what the whole cache can hold.

    Raises:
        UsageError: what is wrong, with its value and what it may be.
    """
    request.sampling.check(config.vocab_size)
    request.speculation.check()
    _check_prompt(request, config.vocab_size, max_model_len)
    _check_drafts(request.speculation, config, limits)
    longest = min(len(request.prompt) + request.sampling.max_tokens, max_model_len)
    if longest > cache_tokens:
        raise UsageError(
            f"prompt and max_tokens need {longest} tokens of cache, but the whole cache holds {cache_tokens}; "
            f"ask for fewer or give the engine more cache_blocks"
        )


def _check_prompt(request: Request, vocab_size: int, max_model_len: int) -> None:
    prompt = request.prompt
    if not len(prompt):
        raise UsageError("the prompt is empty; give at least one token")
    room = 0 if request.sampling.max_tokens == 0 else 1
    if len(prompt) + room > max_model_len:
        raise UsageError(
            f"the prompt has {len(prompt)} tokens; this model takes {max_model_len} of prompt and output together"
        )
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        bad = next(token for token in prompt if not 0 <= token < vocab_size)
        raise UsageError(f"the prompt holds token id {bad}; ids are 0 to {vocab_size - 1}")


def _check_drafts(speculation: Speculation, config: ModelConfig, limits: DraftLimits) -> None:
    decoder, wanted = speculation.decoder, speculation.num_draft_tokens
    if decoder in MODULE_DECODERS and config.prediction.kind == "none":
        raise UsageError(f"decoder {decoder} needs prediction modules, and this model has none; use decoder standard")
    if decoder == "draft_model" and limits.draft_model is None:
        raise UsageError("decoder draft_model needs a draft model, and this engine has none; give it one")
    if decoder == "standard" and wanted:
        raise UsageError(f"decoder standard drafts nothing, but num_draft_tokens is {wanted}")
    most = limits.most(decoder)
    if wanted is not None and wanted > most:
        raise UsageError(f"num_draft_tokens is {wanted}; decoder {decoder} drafts at most {most} tokens a step here")
