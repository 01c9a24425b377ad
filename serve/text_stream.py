"""Tokens to text as they come: whole characters only, cut at the first stop string, each piece with its origin.

A stop string may begin in one token and end in a later one, so text that could still become one is held back. An id
that the model has and the tokenizer has not (a vocabulary rounded up) is no text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mtp.decode import Token, TokenLogprob
from mtp.tokenizer import Tokenizer


@dataclass
class Delta:
    """What became readable."""

    text: str = ""
    pieces: list[tuple[str, int]] = field(default_factory=list)
    """The text in pieces, each with the origin of the token that completed it."""
    stopped: bool = False
    """A stop string was found: nothing after it counts."""


def piece(tokenizer: Tokenizer, token: int) -> str:
    """The text of one id by itself."""
    return tokenizer.pieces[token] if token < tokenizer.vocab_size else ""


class TextStream:
    """The text of one choice."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream()
        self._stops = [stop for stop in stops if stop]
        self._held: list[tuple[str, int]] = []
        self.length = 0
        """Characters handed out."""
        self.tokens = 0
        """Tokens taken, up to and with the one that completed a stop string."""
        self.logprobs: list[tuple[int, TokenLogprob]] = []
        """Log-probabilities of tokens that brought them, with the place in the text where each begins."""

    def push(self, tokens: Sequence[Token], *, last: bool = False) -> Delta:
        """Take tokens; `last` when no more come, so that nothing need be held back."""
        for token in tokens:
            self.tokens += 1
            if token.logprob is not None:
                self.logprobs.append((self.length + self._held_length(), token.logprob))
            text = self._decoder.push([token.id]) if token.id < self._tokenizer.vocab_size else ""
            if text:
                self._held.append((text, token.origin))
                cut = self._found_stop()
                if cut is not None:
                    return self._release(cut, stopped=True)
        if last:
            rest = self._decoder.finish()
            if rest:
                self._held.append((rest, tokens[-1].origin if tokens else 0))
                cut = self._found_stop()
                if cut is not None:
                    return self._release(cut, stopped=True)
            return self._release(self._held_length())
        return self._release(self._held_length() - self._possible_stop())

    def _held_text(self) -> str:
        return "".join(text for text, _ in self._held)

    def _held_length(self) -> int:
        return sum(len(text) for text, _ in self._held)

    def _found_stop(self) -> int | None:
        """Where the first stop string begins in the held text."""
        if not self._stops:
            return None
        text = self._held_text()
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(places, default=None)

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that is the beginning of a stop string."""
        if not self._stops:
            return 0
        text = self._held_text()
        longest = min(len(text), max(map(len, self._stops)) - 1)
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)

    def _release(self, count: int, *, stopped: bool = False) -> Delta:
        """Hand out the first `count` held characters; when stopped, drop the rest."""
        delta = Delta(stopped=stopped)
        kept: list[tuple[str, int]] = []
        for text, origin in self._held:
            if count > 0:
                delta.pieces.append((text[:count], origin))
            if len(text) > count:
                kept.append((text[max(count, 0) :], origin))
            count -= len(text)
        self._held = [] if stopped else kept
        delta.text = "".join(text for text, _ in delta.pieces)
        self.length += len(delta.text)
        return delta
