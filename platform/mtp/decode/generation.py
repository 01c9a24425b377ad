"""A batch of prompts to their outputs in one call, and one prompt as a stream of tokens: the engine for scripts."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from mtp.decode.engine import Engine
from mtp.decode.grammar import GrammarCompiler
from mtp.decode.options import EngineOptions
from mtp.decode.request import FinishReason, Request, Sampling, Speculation, Token
from mtp.decode.stats import DecodeStats
from mtp.errors import MTPError
from mtp.model import MTPModel


@dataclass
class Generation:
    """The output of one prompt."""

    tokens: list[int] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    """How each token came: 0 = the target's own choice, k = accepted draft position k."""
    finish_reason: FinishReason | None = None
    error: str | None = None
    stats: DecodeStats = field(default_factory=DecodeStats)


def generate(
    model: MTPModel,
    prompts: Items[Items[int]],
    sampling: Sampling | None = None,
    speculation: Speculation | None = None,
    *,
    eos_ids: tuple[int, ...] = (),
    options: EngineOptions | None = None,
    grammars: GrammarCompiler | None = None,
    draft_model: MTPModel | None = None,
) -> list[Generation]:
    """Continue every prompt; an engine made for the call runs them in batches.

    Args:
        model: in evaluation mode.
        prompts: token ids.
        sampling: for all prompts; greedy by default.
        speculation: for all prompts; the model's own modules by default, standard decoding for a model without.
        eos_ids: end an output unless sampling.ignore_eos.
        options: sizes of the engine; by default a batch of up to 8.
        grammars: for constrained outputs.
        draft_model: for the decoder of that name.

    Raises:
        UsageError: a prompt or a parameter makes no sense for this model.
    """
    engine = Engine(model, eos_ids=eos_ids, options=options, grammars=grammars, draft_model=draft_model)
    speculation = speculation or default_speculation(model)
    numbers = [
        engine.add(Request(prompt=prompt, sampling=sampling or Sampling(), speculation=speculation))
        for prompt in prompts
    ]
    found = {number: Generation() for number in numbers}
    while engine.has_work:
        for output in engine.step():
            generation = found[output.request_id]
            generation.tokens += [token.id for token in output.tokens]
            generation.origins += [token.origin for token in output.tokens]
            if output.finish_reason is not None:
                generation.finish_reason, generation.error = output.finish_reason, output.error
                generation.stats = output.stats or generation.stats
    return [found[number] for number in numbers]


def stream(
    model: MTPModel,
    prompt: Items[int],
    sampling: Sampling | None = None,
    speculation: Speculation | None = None,
    *,
    eos_ids: tuple[int, ...] = (),
    stats: DecodeStats | None = None,
    grammars: GrammarCompiler | None = None,
    draft_model: MTPModel | None = None,
) -> Iterator[Token]:
    """Tokens of one prompt as they come, each with its origin.

    Args:
        model: in evaluation mode.
        prompt: token ids.
        sampling: greedy by default.
        speculation: as in `generate`.
        eos_ids: as in `generate`.
        stats: filled as the decoding goes on.
        grammars: for constrained outputs.
        draft_model: for the decoder of that name.

    Raises:
        UsageError: the prompt or a parameter makes no sense for this model.
        MTPError: decoding failed (logits that are not finite).
    """
    speculation = speculation or default_speculation(model)
    options = EngineOptions(max_batch_size=1, max_draft_tokens=speculation.num_draft_tokens or None)
    engine = Engine(model, eos_ids=eos_ids, options=options, stats=stats, grammars=grammars, draft_model=draft_model)
    engine.add(Request(prompt=prompt, sampling=sampling or Sampling(), speculation=speculation))
    while engine.has_work:
        for output in engine.step():
            yield from output.tokens
            if output.error is not None:
                raise MTPError(f"decoding failed: {output.error}")


def default_speculation(model: MTPModel) -> Speculation:
    """The model's own prediction modules, or standard decoding for a model without."""
    return Speculation(decoder="standard" if model.config.prediction.kind == "none" else "mtp")
