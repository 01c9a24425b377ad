"""What a decoding benchmark says beside rates: shares of the machine's limits, first tokens, memory, int8's price."""

import math
import time
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mtp.cli.bench.decode import OurEngine
    from mtp.model import MTPModel

FLOAT_BYTES = 4


def limit_shares(ours: "OurEngine", rate: float, limits: dict[str, float], *, int8: bool) -> dict[str, str]:
    """Bytes of weights that the passes need over the measured bandwidth, and FLOPs over the measured peak.

    A token's active weights, once a pass: at larger batches more experts are read than that, so the share of the
    bandwidth is a lower bound there. A model that fits the cache can exceed the memory's bandwidth.
    """
    from mtp.model import parameter_counts

    counts = parameter_counts(ours.engine.model.config)
    stats, batch = ours.engine.stats, ours.batch
    weights = counts.main_active - counts.embedding
    passes = rate / batch / max(stats.tokens_per_step, 1e-9)
    drafts = sum(stats.drafted_per_position)
    drafts_per_step = drafts / max(stats.target_passes, 1)
    read = passes * (weights + drafts_per_step * counts.modules_active) * (1 if int8 else FLOAT_BYTES)
    flops = 2 * batch * passes * ((1 + drafts_per_step) * weights + drafts_per_step * counts.modules_active)
    return {
        "of the bandwidth": f"{read / limits['matvec_bytes_per_s']:.0%}",
        "of the FLOPs": f"{flops / limits['matmul_flops']:.0%}",
    }


def memory_per_request(name: str, model: "MTPModel", tokens: int) -> dict[str, Any]:
    """Bytes of latent cache that a request of so many tokens holds."""
    config = model.config
    a_token = model.cache_layers * (config.kv_lora_rank + config.qk_rope_head_dim) * FLOAT_BYTES
    value = float(a_token * tokens)
    detail = {"tokens": tokens, "bytes a token": a_token}
    return {"name": f"{name} cache of a request", "unit": "bytes", "median": value, "detail": detail}


def first_token(name: str, model: "MTPModel", prompt: list[int]) -> list[dict[str, Any]]:
    """Seconds from the request to its first token, with an empty and with a warm prefix cache."""
    from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation

    length = len(prompt) + 16
    engine = Engine(model, options=EngineOptions(max_batch_size=1, max_model_len=length))
    sampling = Sampling(max_tokens=8, ignore_eos=True)  # a request of one token leaves nothing in the prefix cache

    def seconds_of(tokens: list[int]) -> float:
        engine.add(Request(prompt=tokens, sampling=sampling, speculation=Speculation(decoder="standard")))
        began = time.perf_counter()
        while not any(output.tokens for output in engine.step()):
            pass
        seconds = time.perf_counter() - began
        while engine.has_work:
            engine.step()
        return seconds

    seconds_of(prompt[::-1])  # the engine's first request pays for what none after it does
    entries = []
    for state in ("empty", "warm"):
        seconds = seconds_of(prompt)
        detail = {"prompt tokens": len(prompt), "prefix cache": state}
        entries.append({"name": f"{name} first token, {state}", "unit": "s", "median": seconds, "detail": detail})
    return entries


def perplexities(name: str, minutes: float, model: "MTPModel", rows: list[list[int]]) -> list[dict[str, Any]]:
    """Perplexity of held-out rows with the weights as they are and in int8, through the engine itself."""
    from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation

    entries = []
    kinds: tuple[Literal["none", "int8"], ...] = ("none", "int8")
    for quantization in kinds:
        longest = max(map(len, rows)) + 1
        options = EngineOptions(max_batch_size=1, max_model_len=longest, quantization=quantization)
        engine = Engine(model, options=options)
        total, count = 0.0, 0
        for row in rows:
            sampling = Sampling(max_tokens=1, logprobs=0, prompt_logprobs=True)
            engine.add(Request(prompt=row, sampling=sampling, speculation=Speculation(decoder="standard")))
            while engine.has_work:
                for output in engine.step():
                    known = [one.logprob for one in output.prompt_logprobs or [] if one is not None]
                    total, count = total - sum(known), count + len(known)
        value = math.exp(total / count)
        label = "int8" if quantization == "int8" else "fp32"
        detail = {"tokens": count, "minutes of training": f"{minutes:g}"}
        entries.append({"name": f"{name} perplexity {label}", "unit": "", "median": value, "detail": detail})
    return entries
