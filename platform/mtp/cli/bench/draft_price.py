"""What drafts cost at a batch size, and what follows from it: the most that they could bring, the share they need.

A step with K drafts makes the drafts and verifies K + 1 tokens in one pass. Were each draft accepted with the
probability a where those before it were, it would emit 1 + a + ... + a^K tokens (Leviathan et al. 2023, equation 1).
"""

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtp.decode import Engine
    from mtp.model import MTPModel

DRAFTS = (1, 2, 3)
STEPS = 16
"""At least so many are timed of each kind in a round, the first ones left out."""
FILLING = 2


def draft_price(
    name: str, model: "MTPModel", prompts: Sequence[list[int]], draft_vocab_size: int | None, rounds: int, target: float
) -> dict[str, Any]:
    """The entry of a cell: times standard decoding's speed if every draft were accepted, by steps that take turns.

    `target`: the speed over standard decoding for which the needed acceptance is said.
    """
    from mtp.decode import Engine, EngineOptions

    tokens = (FILLING + STEPS) * (1 + max(DRAFTS))
    options = EngineOptions(
        max_batch_size=len(prompts),
        max_model_len=max(map(len, prompts)) + tokens,
        prefix_caching=False,
        adaptive_drafts=False,
        draft_vocab_size=draft_vocab_size,
        quantization="drafts",
    )
    engine = Engine(model, options=options)
    counts = [k for k in (0, *DRAFTS) if k < model.config.n_future]
    seconds: dict[int, list[float]] = {k: [] for k in counts}
    for _ in range(1 + rounds):
        for k in counts:
            seconds[k].append(_step_seconds(engine, prompts, k))
    price = {k: statistics.median(a / b for a, b in zip(seconds[k][1:], seconds[0][1:], strict=True)) for k in counts}
    most = max((1 + k) / price[k] for k in counts)
    detail = {"a step with 0, 1, ... drafts costs, in standard's": " ".join(f"{price[k]:.2f}" for k in counts)}
    if target > 1:
        shares = [share for k in counts if (share := needed_share(k, target * price[k])) is not None]
        asked = f"{min(shares):.0%}" if shares else "more than all"
        detail[f"accepted share that {target:g} asks for"] = asked
    return {"name": f"{name} b{len(prompts)} mtp, every draft accepted", "unit": "x", "median": most, "detail": detail}


def needed_share(drafts: int, tokens: float) -> float | None:
    """The smallest a with 1 + a + ... + a^drafts >= tokens; None where not even a = 1 makes as many."""
    if tokens > 1 + drafts:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        enough = sum(share**power for power in range(drafts + 1)) >= tokens
        low, high = (low, share) if enough else (share, high)
    return high


def _step_seconds(engine: "Engine", prompts: Sequence[list[int]], drafts: int) -> float:
    """Median time of a step in which every request decodes with so many drafts."""
    from mtp.decode import Request, Sampling, Speculation

    sampling = Sampling(max_tokens=(FILLING + STEPS) * (1 + drafts), ignore_eos=True)
    wish = Speculation(decoder="mtp", num_draft_tokens=drafts)
    for prompt in prompts:
        engine.add(Request(prompt=prompt, sampling=sampling, speculation=wish))
    times = []
    while engine.has_work:
        began = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - began)
    return statistics.median(times[FILLING : FILLING + STEPS])
