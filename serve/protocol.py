"""Requests in OpenAI's shape, and what they mean to the engine. Knows pydantic and mtp.decode; no HTTP, no ray.

Fields that OpenAI has and this server does not support may be sent with their neutral value only. Of unknown fields a
misspelt one (`temprature`) is refused; others are some client's own and are passed over, named in the answer's header.
"""

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from mtp.decode import ACCEPTANCE_RULES, DECODERS, Sampling, Speculation

MAX_CHOICES = 128
MAX_STOPS = 16
Ids = list[Annotated[int, Field(ge=0, lt=2**31)]]
Text = Annotated[str, StringConstraints(max_length=10_000_000)]


class Wire(BaseModel):
    """A JSON object of the API: strict about names, and NaN is no number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SpeculationField(Wire):
    """The extension `speculation`."""

    decoder: Literal[DECODERS] | None = None  # type: ignore[valid-type]
    num_draft_tokens: int | None = Field(default=None, ge=0, le=64)
    acceptance: Literal[ACCEPTANCE_RULES] = "exact"  # type: ignore[valid-type]
    origins: bool = False
    """Return each choice's text in pieces, with the origin of each: 0 = target, k = accepted draft position k."""


class StreamOptions(Wire):
    """What a stream tells beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class JSONSchemaFormat(Wire):
    """`response_format.json_schema`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)

    name: str | None = None
    description: str | None = None
    definition: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Wire):
    """`response_format`: what the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None

    @model_validator(mode="after")
    def _schema_goes_with_its_type(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("response_format: json_schema belongs to type json_schema, which needs it")
        return self


class Generating(Wire):
    """What completions and chat completions share."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str | None = None
    n: int | None = Field(default=1, ge=1, le=MAX_CHOICES)
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    presence_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    logit_bias: dict[Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")], float] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    speculation: SpeculationField = SpeculationField()
    # As in vLLM, beyond OpenAI:
    top_k: int | None = Field(default=0, ge=-1)
    min_p: float | None = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float | None = Field(default=1.0, gt=0, le=100)
    min_tokens: int | None = Field(default=0, ge=0)
    ignore_eos: bool | None = False
    stop_token_ids: Ids | None = None
    # Told for their own sake; they change nothing in an answer:
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    response_format: ResponseFormat | None = None

    @field_validator("speculation", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _is_supported(self) -> Self:
        for name in self.ignored:
            near = difflib.get_close_matches(name, list(type(self).model_fields), 1, cutoff=0.75)
            if near:
                raise ValueError(f"{name}: unknown field; did you mean {near[0]}?")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        if any(not stop for stop in self.stops):
            raise ValueError("stop: an empty string would stop everything; leave it out")
        return self

    @property
    def ignored(self) -> list[str]:
        """Names of fields that this server does not know."""
        return list(self.model_extra or {})

    @property
    def stops(self) -> list[str]:
        """The stop strings, none or more."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def choices_per_prompt(self) -> int:
        """n, where null means 1."""
        return self.n or 1

    def sampling(self, *, max_tokens: int, choice: int, logprobs: int | None, prompt_logprobs: bool) -> Sampling:
        """For choice number `choice` of a prompt; with a seed, each choice has one of its own."""
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            temperature=_or(self.temperature, 1.0),
            top_k=max(self.top_k or 0, 0),
            top_p=_or(self.top_p, 1.0),
            min_p=_or(self.min_p, 0.0),
            seed=None if self.seed is None else self.seed + choice,
            stop_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            **self._constraint(),
        )

    def _constraint(self) -> dict[str, Any]:
        """What `response_format` means to the engine."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return {}
        if wanted.json_schema is not None:
            return {"json_schema": wanted.json_schema.definition}
        return {"json_object": True}

    def speculate(self, decoder: str, num_draft_tokens: int | None) -> Speculation:
        """As asked for, else with the server's decoder and number of drafts."""
        asked = self.speculation
        if asked.decoder not in (None, decoder):
            num_draft_tokens = None
        return Speculation(
            decoder=asked.decoder or decoder,  # type: ignore[arg-type]
            num_draft_tokens=num_draft_tokens if asked.num_draft_tokens is None else asked.num_draft_tokens,
            acceptance=asked.acceptance,
        )


class CompletionRequest(Generating):
    """POST /v1/completions."""

    prompt: Text | list[Text] | Ids | list[Ids]
    max_tokens: int | None = Field(default=16, ge=0)
    echo: bool | None = False
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: int | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def _completes(self) -> Self:
        if self.best_of not in (None, self.choices_per_prompt):
            raise ValueError("best_of: not supported by this server other than equal to n")
        if self.suffix:
            raise ValueError("suffix: not supported by this server")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 needs echo, or there is nothing to answer")
        return self

    def prompts(self) -> list[str | list[int]]:
        """One entry a prompt, whichever of the four forms was sent."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]


class Message(Wire):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[dict[str, Any]]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as text, its parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part["text"] for part in self.content)

    @model_validator(mode="after")
    def _is_text(self) -> Self:
        if isinstance(self.content, list):
            for part in self.content:
                if part.get("type") != "text" or not isinstance(part.get("text"), str):
                    raise ValueError("content: only parts of type text are supported by this server")
        return self


class ChatRequest(Generating):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Any] | None = None
    tool_choice: Any = None

    @model_validator(mode="after")
    def _chats(self) -> Self:
        if self.tools or self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tools: not supported by this server")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs to be true")
        return self


class TokenizeRequest(Wire):
    """POST /tokenize."""

    model: str | None = None
    prompt: Text


class DetokenizeRequest(Wire):
    """POST /detokenize."""

    model: str | None = None
    tokens: Ids


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
