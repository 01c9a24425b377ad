"""Constrained decoding: which tokens a JSON schema, a regular expression or a grammar allows next.

The automata are llguidance's (Rust, no compiler needed, masks computed as they are asked for). A GrammarState answers
for the text emitted so far and for any run of drafts behind it: drafts are consumed to look at what may follow them,
and rolled back. Knows token bytes and ids; nothing of models, logits or how drafts are accepted.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtp.decode.request import Sampling
from mtp.errors import UsageError
from mtp.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 64
"""Compiled grammars that are remembered."""
_WHITESPACE = r"\n?[ ]{0,16}"
"""Between the parts of a JSON value: room for indentation, no room for a model that never ends its blanks."""


class GrammarCompiler:
    """Compiles the constraints of requests for one vocabulary, and remembers them. Any thread may use it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int] | None = None) -> None:
        """`vocab_size` is the model's; ids that the tokenizer lacks (a vocabulary rounded up) are never allowed."""
        self.vocab_size = vocab_size
        self.eos_ids = tuple(eos_ids or (tokenizer.eos_id,))
        self._tokenizer = tokenizer
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, sampling: Sampling) -> None:
        """Compile the constraint of a request.

        Raises:
            UsageError: it is malformed, or no output can satisfy it; the sentence has the library's reason.
        """
        self._matcher(sampling)

    def state(self, sampling: Sampling) -> "GrammarState":
        """A new output under the constraint; raises as `check` does."""
        stops = (*self.eos_ids, *sampling.stop_ids)
        return GrammarState(self._matcher(sampling), self.vocab_size, sampling.min_tokens, stops)

    def _matcher(self, sampling: Sampling) -> "LLMatcher":
        source = _source(sampling)
        with self._lock:
            if source in self._compiled:
                self._compiled.move_to_end(source)
            else:
                self._compiled[source] = self._compile(source)
                if len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
            return self._compiled[source].deep_copy()

    def _compile(self, source: str) -> "LLMatcher":
        from llguidance import LLMatcher

        if self._vocabulary is None:
            self._vocabulary = _vocabulary(self._tokenizer, self.vocab_size, self.eos_ids)
        matcher = LLMatcher(self._vocabulary, source, log_level=0)
        if matcher.is_error():
            raise UsageError(f"the constraint cannot be used: {_reason(matcher.get_error())}")
        allowed = _mask(matcher, self.vocab_size)
        allowed[list(self.eos_ids)] = False
        if matcher.is_error() or not allowed.any():
            raise UsageError("the constraint cannot be satisfied: it allows no token of this vocabulary at the start")
        return matcher


class GrammarState:
    """How far one output has come under its constraint."""

    def __init__(self, matcher: "LLMatcher", vocab_size: int, min_tokens: int, stops: Sequence[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._min_tokens = min_tokens
        self._stops = list(stops)
        self._emitted = 0
        self._ahead: list[int] = []
        """Drafts that the matcher has consumed behind the emitted tokens."""
        self._masks: dict[tuple[int, ...], np.ndarray | None] = {}
        self._trouble: dict[tuple[int, ...], str] = {}

    def allowed(self, drafted: Sequence[int] = ()) -> np.ndarray | None:
        """The tokens (V,) bool that may follow the output and `drafted` behind it.

        None where that place is never reached, or is a dead end: a draft is not allowed itself, or nothing is. The
        caller then lets anything pass; `advance` reports dead ends that an output really comes to.
        """
        prefix = tuple(drafted)
        if prefix not in self._masks:
            self._masks[prefix] = self._compute(prefix)
        return self._masks[prefix]

    def advance(self, tokens: Sequence[int]) -> tuple[int, bool, str | None]:
        """The output grows by `tokens`.

        Returns:
            How many of them the output takes, whether the constraint ends the output there, and what went wrong.
        """
        for count in range(len(tokens)):
            mask = self.allowed(tokens[:count])
            if mask is None or not mask[tokens[count]]:
                return count, True, self._trouble.get(tuple(tokens[:count]), "a token broke the constraint")
            self._go_to((*tokens[: count + 1],))
            if self._matcher.is_stopped():
                error = self._error()
                self._settle(count + 1)
                if error is None and self._emitted < self._min_tokens:
                    error = f"the constraint ends after {self._emitted} tokens; min_tokens is {self._min_tokens}"
                return count + 1, True, error
        self._go_to(tuple(tokens))
        self._settle(len(tokens))
        return len(tokens), False, None

    def _settle(self, count: int) -> None:
        self._emitted += count
        self._ahead, self._masks, self._trouble = [], {}, {}

    def _compute(self, prefix: tuple[int, ...]) -> np.ndarray | None:
        if prefix:
            before = self.allowed(prefix[:-1])
            if before is None or not before[prefix[-1]]:
                return None
        self._go_to(prefix)
        mask = _mask(self._matcher, self._vocab_size)
        if (error := self._error()) is not None:
            self._trouble[prefix] = error
            return None
        if self._emitted + len(prefix) < self._min_tokens:
            mask[self._stops] = False
        if not mask.any():
            self._trouble[prefix] = (
                f"the constraint allows no token after {self._emitted + len(prefix)} tokens of output"
                f" (min_tokens is {self._min_tokens})"
            )
            return None
        return mask

    def _go_to(self, prefix: tuple[int, ...]) -> None:
        """Bring the matcher behind `prefix`, all of whose tokens are allowed."""
        common = 0
        while common < min(len(self._ahead), len(prefix)) and self._ahead[common] == prefix[common]:
            common += 1
        if len(self._ahead) > common:
            self._matcher.rollback(len(self._ahead) - common)
            del self._ahead[common:]
        for token in prefix[common:]:
            if self._matcher.is_stopped() or not self._matcher.consume_token(token):
                return  # after its end a constraint takes nothing more
            self._ahead.append(token)

    def _error(self) -> str | None:
        reason = _reason(self._matcher.get_error()) if self._matcher.is_error() else ""
        if "NoExtension" in reason or (self._matcher.is_stopped() and not self._matcher.is_accepting()):
            return "the constraint has come to a dead end: no token of this vocabulary may follow"
        return f"the constraint failed: {reason}" if reason else None


def allowed_masks(
    states: Sequence[GrammarState | None], drafted: Sequence[Sequence[int]], first: int, count: int, vocab_size: int
) -> np.ndarray:
    """The masks of `count` positions of each row, the first of which sees `first` drafts.

    Args:
        states: R of them; None for a row without a constraint, which may emit anything.
        drafted: R rows of at least first + count - 1 tokens.
        first: drafts before the first position.
        count: positions.
        vocab_size: V.

    Returns:
        (R, count, V) bool.
    """
    masks = np.ones((len(states), count, vocab_size), dtype=bool)
    for row, state in enumerate(states):
        if state is None:
            continue
        for place in range(count):
            mask = state.allowed(drafted[row][: first + place])
            if mask is None:
                break
            masks[row, place] = mask
    return masks


def _source(sampling: Sampling) -> str:
    """The constraint in llguidance's own notation."""
    from llguidance import LLMatcher

    if sampling.regex is not None:
        return LLMatcher.grammar_from_regex(sampling.regex)
    if sampling.grammar is not None:
        return LLMatcher.grammar_from_lark(_lark(sampling.grammar))
    schema: Mapping[str, Any] | str | bool | None = {"type": "object"} if sampling.json_object else sampling.json_schema
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        json.loads(text)
        return LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": _WHITESPACE})
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"json_schema is not a JSON schema: {_reason(str(error))}") from None


def _lark(grammar: str) -> str:
    """Lark as it is; EBNF in the manner of `root ::= ...` (GBNF) translated."""
    if "::=" not in grammar:
        return grammar
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return any_to_lark(grammar)
    except Exception as error:  # the translator raises its own class and, on odd input, others
        raise UsageError(f"grammar is not EBNF of the form `root ::= ...`: {_reason(str(error))}") from None


def _vocabulary(tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> "LLTokenizer":
    from llguidance import LLTokenizer, TokenizerWrapper

    known = min(vocab_size, tokenizer.vocab_size)
    pieces = [tokenizer.token_bytes(token) for token in range(known)] + [b""] * (vocab_size - known)
    return LLTokenizer(TokenizerWrapper(_Pieces(pieces, tokenizer, eos_ids[0])), eos_token=list(eos_ids), slices=[])


class _Pieces:
    """A vocabulary as llguidance wants to be told of it."""

    bos_token_id = None

    def __init__(self, pieces: list[bytes], tokenizer: Tokenizer, eos_id: int) -> None:
        self.tokens = pieces
        self.special_token_ids = sorted({*tokenizer.special_ids, *range(tokenizer.vocab_size, len(pieces))})
        self.eos_token_id = eos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _mask(matcher: "LLMatcher", vocab_size: int) -> np.ndarray:
    packed = np.zeros(-(-vocab_size // 32), dtype=np.int32)
    matcher.unsafe_compute_mask_ptr(packed.ctypes.data, packed.nbytes)
    return np.unpackbits(packed.view(np.uint8), bitorder="little")[:vocab_size].astype(bool)


def _reason(text: str) -> str:
    """The reason in a message of several lines: the one marked as the error, else the first; not too long."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (marked or lines or ["no reason given"])[0][:300]
