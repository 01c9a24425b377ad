"""Our request in vLLM's words, and what vLLM cannot do refused: nothing that was asked for is passed over.

Knows the fields of vLLM's /v1/completions; nothing of processes and connections.
"""

from dataclasses import dataclass
from typing import Any

from mtp.config import ModelConfig
from mtp.decode import Request, Sampling
from mtp.decode.admission import DraftLimits, check_request
from mtp.errors import UsageError
from serve.serving_engine import EngineStoppedError
from serve.vllm_server import MODEL


@dataclass(frozen=True)
class Offer:
    """What a server of vLLM was started with, once for all requests."""

    model: ModelConfig
    max_model_len: int
    num_draft_tokens: int
    """0: standard decoding."""

    @property
    def decoder(self) -> str:
        """The decoder of all its requests."""
        return "mtp" if self.num_draft_tokens else "standard"


def check(request: Request, offer: Offer) -> None:
    """Refuse what the model, or vLLM as it was started, cannot do.

    Raises:
        UsageError: what is wrong, and what to do.
    """
    asked, fixed = request.speculation, offer.decoder
    if asked.decoder != fixed:
        raise UsageError(
            f"speculation.decoder is {asked.decoder}; vLLM serves this model, and decodes every request with {fixed}"
        )
    if asked.num_draft_tokens not in (None, offer.num_draft_tokens):
        raise UsageError(
            f"speculation.num_draft_tokens is {asked.num_draft_tokens}; vLLM serves this model, and drafts "
            f"{offer.num_draft_tokens} tokens in every step"
        )
    if asked.acceptance != "exact":
        raise UsageError(f"speculation.acceptance is {asked.acceptance}; vLLM serves this model, and knows only exact")
    limits = DraftLimits.of(offer.model, offer.num_draft_tokens)
    check_request(request, offer.model, offer.max_model_len, limits, cache_tokens=offer.max_model_len)
    if offer.num_draft_tokens and (request.sampling.min_p or request.sampling.logit_bias):
        raise UsageError("min_p and logit_bias: vLLM, which serves this model, cannot combine them with speculation")


def continuable(request: Request) -> bool:
    """Whether vLLM, given the output so far as part of the prompt, goes on as if nothing had happened.

    Penalties of the output, a constraint's state and a seed's place would all begin anew.
    """
    sampling = request.sampling
    seeded = sampling.seed is not None and not sampling.greedy
    return not (seeded or sampling.constrained or sampling.presence_penalty or sampling.frequency_penalty)


def body_of(request: Request, max_model_len: int) -> dict[str, Any]:
    """The JSON of POST /v1/completions; the output ends where the model's context does, as our engine's.

    Raises:
        EngineStoppedError: another replica was lost under this request, and vLLM cannot take it up.
    """
    sampling, before = request.sampling, len(request.emitted)
    if before and not continuable(request):
        raise EngineStoppedError("vLLM cannot go on with a request whose sampling depends on what came before")
    prompt = [*request.prompt, *request.emitted]
    body: dict[str, Any] = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": min(sampling.max_tokens - before, max_model_len - len(prompt)),
        "min_tokens": max(sampling.min_tokens - before, 0),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()} or None,
        "seed": None if sampling.greedy else sampling.seed,
        "stop_token_ids": list(sampling.stop_ids),
        "ignore_eos": sampling.ignore_eos,
        "logprobs": sampling.logprobs,
        "structured_outputs": _constraint(sampling),
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    if sampling.prompt_logprobs:  # which vLLM does not stream; and it wants to make one token at least
        body |= {"prompt_logprobs": sampling.logprobs or 0, "max_tokens": max(body["max_tokens"], 1)}
    else:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return {name: value for name, value in body.items() if value is not None}


def _constraint(sampling: Sampling) -> dict[str, Any] | None:
    if sampling.json_object:
        return {"json_object": True}
    found = {"json": sampling.json_schema, "regex": sampling.regex, "grammar": sampling.grammar}
    return {name: value for name, value in found.items() if value is not None} or None
