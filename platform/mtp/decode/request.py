"""What a user of the engine asks for, and what comes back: plain values, no tensors.

Knows what is allowed in a request; does not know how any of it is done. Text, stop strings and tokenizers live above
(serve, the command line): here everything is token ids.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from mtp.decode.stats import DecodeStats
from mtp.errors import UsageError

Decoder = Literal["standard", "mtp", "draft_model", "prompt_lookup", "parallel"]
DECODERS: tuple[str, ...] = get_args(Decoder)
Acceptance = Literal["exact", "threshold", "typical"]
ACCEPTANCE_RULES: tuple[str, ...] = get_args(Acceptance)
FinishReason = Literal["stop", "length", "error", "cancelled"]

MAX_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen from the target's logits, and when to stop.

    The processors run in the order of their fields: constraint, bias, penalties, temperature, top_k, top_p, min_p.
    Temperature 0 is greedy. `repetition_penalty` looks at prompt and output (Keskar et al. 2019), the other two at the
    output alone. At most one of `json_schema`, `json_object`, `regex` and `grammar` constrains the output, which ends
    where nothing more may follow; the engine needs a GrammarCompiler for it.
    """

    max_tokens: int = 128
    min_tokens: int = 0
    json_schema: Mapping[str, Any] | str | None = None
    json_object: bool = False
    """Any JSON object."""
    regex: str | None = None
    """The whole output matches it."""
    grammar: str | None = None
    """EBNF (`root ::= ...`) or Lark (`start: ...`)."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """Return log-probabilities (of the model, before the processors) of each token and of so many most likely ones."""
    prompt_logprobs: bool = False

    def check(self, vocab_size: int) -> None:
        """Refuse what makes no sense for a vocabulary of `vocab_size` ids.

        Raises:
            UsageError: names the parameter, its value and what it may be.
        """
        _between("max_tokens", self.max_tokens, 0 if self.prompt_logprobs else 1, math.inf)
        _between("min_tokens", self.min_tokens, 0, math.inf)
        _between("temperature", self.temperature, 0, 100)
        _between("top_k", self.top_k, 0, math.inf)
        _between("min_p", self.min_p, 0, 1)
        _between("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _between("presence_penalty", self.presence_penalty, -2, 2)
        _between("frequency_penalty", self.frequency_penalty, -2, 2)
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.min_tokens > self.max_tokens:
            raise UsageError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
        if len(self._constraints) > 1:
            raise UsageError(f"{' and '.join(self._constraints)} cannot both constrain an output; choose one")
        if self.logprobs is not None:
            _between("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _in_vocabulary("stop_ids", self.stop_ids, vocab_size)
        _in_vocabulary("logit_bias", self.logit_bias, vocab_size)
        for token, bias in self.logit_bias.items():
            _between(f"logit_bias of token {token}", bias, -100, 100)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether the choice depends on which tokens came before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def plain_greedy(self) -> bool:
        """Greedy with no processor at all: the argmax of the raw logits."""
        return not (self.temperature or self.penalised or self.logit_bias or self.min_tokens or self.constrained)

    @property
    def constrained(self) -> bool:
        """Whether a schema, an expression or a grammar says which tokens may come."""
        return bool(self._constraints)

    @property
    def _constraints(self) -> list[str]:
        named = [name for name in ("json_schema", "regex", "grammar") if getattr(self, name) is not None]
        return [*named, "json_object"] if self.json_object else named


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """Which decoder runs, how many tokens it drafts a step, and by which rule they are accepted.

    `exact` leaves the output's distribution untouched (greedy: the very same tokens). `threshold` (accept while
    p(x) > tau) and `typical` (Medusa: p(x) > min(epsilon, delta exp(-H(p)))) are lossy, and so is the decoder
    `parallel`, which emits its drafts unverified.
    """

    decoder: Decoder = "mtp"
    num_draft_tokens: int | None = None
    """Drafts a step; None: as many as the decoder can make here."""
    acceptance: Acceptance = "exact"
    tau: float = 0.1
    epsilon: float = 0.3
    delta: float = 0.09**0.5

    def check(self) -> None:
        """Refuse names and values that do not exist.

        Raises:
            UsageError: names the parameter, its value and what it may be.
        """
        _one_of("decoder", self.decoder, DECODERS)
        _one_of("acceptance", self.acceptance, ACCEPTANCE_RULES)
        if self.num_draft_tokens is not None:
            _between("num_draft_tokens", self.num_draft_tokens, 0, math.inf)
        for name in ("tau", "epsilon", "delta"):
            _between(name, getattr(self, name), 0, 1)

    @property
    def lossy(self) -> bool:
        """Whether the output's distribution may differ from standard decoding's."""
        return self.decoder == "parallel" or self.acceptance != "exact"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and what to do with it. Smaller `priority` goes first."""

    prompt: Sequence[int]
    sampling: Sampling = Sampling()
    speculation: Speculation = Speculation()
    priority: int = 0
    emitted: Sequence[int] = ()
    """Output that another engine made of this request before it was lost: this one goes on behind it."""


class TokenLogprob(NamedTuple):
    """Natural log-probabilities at one position: of the token that stands there, and of the likeliest ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Token(NamedTuple):
    """One emitted token and how it came: origin 0 = the target's own choice, k = accepted draft position k."""

    id: int
    origin: int
    logprob: TokenLogprob | None = None


@dataclass(slots=True)
class StepOutput:
    """What one step, or several in a row, brought to one request."""

    request_id: int
    tokens: list[Token]
    finish_reason: FinishReason | None = None
    error: str | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """With the first output, where asked for; the first entry is None (nothing predicts the first token)."""
    stats: DecodeStats | None = None
    """With the last output: this request's own statistics."""
    so_far: DecodeStats = field(default_factory=DecodeStats)
    """With every output: the same, still growing."""


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN too
        bound = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise UsageError(f"{name} is {value}; it must be {bound}")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name} {value!r} does not exist; there are: {', '.join(known)}")


def _in_vocabulary(name: str, ids: "Sequence[int] | Mapping[int, float]", vocab_size: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise UsageError(f"{name} holds token id {token}; ids are 0 to {vocab_size - 1}")
