"""Every decoder on one trained model, in turn on the same prompts: tokens per step, acceptance, speed.

All sample at temperature 1, so that lossy rules differ from exact ones. Knows engines; nothing of tables.
"""

import time
from collections.abc import Sequence

import torch
from pydantic import BaseModel

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation
from mtp.errors import MTPError
from mtp.model import MTPModel


class DecoderRow(BaseModel):
    """One decoder on one model."""

    name: str
    lossy: bool
    rule: str
    """Of `divergence.RULES`."""
    tokens_per_step: float
    acceptance: list[float]
    tokens_per_second: float
    """Prompts' passes included."""


class DecoderRows(BaseModel):
    """All decoders on the model of one seed."""

    seed: int
    rows: list[DecoderRow]


def contestants(n_future: int) -> dict[str, Speculation]:
    """Every decoder, standard first."""
    most = n_future - 1
    return {
        "standard": Speculation(decoder="standard"),
        **{f"MTP, K = {k}": Speculation(decoder="mtp", num_draft_tokens=k) for k in range(1, n_future)},
        "draft model": Speculation(decoder="draft_model", num_draft_tokens=most),
        "prompt lookup": Speculation(decoder="prompt_lookup", num_draft_tokens=most),
        "parallel, unverified": Speculation(decoder="parallel", num_draft_tokens=most),
        "MTP, threshold 0.1": Speculation(decoder="mtp", num_draft_tokens=most, acceptance="threshold"),
        "MTP, typical": Speculation(decoder="mtp", num_draft_tokens=most, acceptance="typical"),
    }


def measure_decoders(
    model: MTPModel, draft_model: MTPModel, prompts: Sequence[Sequence[int]], new_tokens: int, eos_id: int, seed: int
) -> DecoderRows:
    """Continue every prompt with each decoder in turn, one request at a time.

    Raises:
        MTPError: the model gave logits that are not finite.
    """
    torch.manual_seed(seed)
    longest = min(max(map(len, prompts)) + new_tokens, model.config.max_position_embeddings)
    options = EngineOptions(max_batch_size=1, max_model_len=longest, prefix_caching=False)
    wishes = contestants(model.config.n_future)
    engines = {name: Engine(model, eos_ids=(eos_id,), options=options, draft_model=draft_model) for name in wishes}
    for name, engine in engines.items():  # the first pass of an engine is slow
        _continue(engine, prompts[0], new_tokens, wishes[name])
        engine.stats.reset()
    seconds = dict.fromkeys(wishes, 0.0)
    for prompt in prompts:
        for name, engine in engines.items():
            began = time.perf_counter()
            _continue(engine, prompt, new_tokens, wishes[name])
            seconds[name] += time.perf_counter() - began
    return DecoderRows(
        seed=seed,
        rows=[
            DecoderRow(
                name=name,
                lossy=wish.lossy,
                rule="parallel" if wish.decoder == "parallel" else wish.acceptance,
                tokens_per_step=engines[name].stats.tokens_per_step,
                acceptance=engines[name].stats.acceptance_per_position,
                tokens_per_second=engines[name].stats.tokens / seconds[name],
            )
            for name, wish in wishes.items()
        ],
    )


def _continue(engine: Engine, prompt: Sequence[int], new_tokens: int, speculation: Speculation) -> None:
    room = engine.max_model_len - len(prompt)
    sampling = Sampling(max_tokens=min(new_tokens, room), temperature=1.0)
    engine.add(Request(prompt=prompt, sampling=sampling, speculation=speculation))
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise MTPError(f"decoding a held-out prompt failed: {output.error}")
