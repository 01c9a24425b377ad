"""Ids that arrive one by one, turned into text as soon as it is whole.

A token may end in the middle of a UTF-8 character; the stream holds those bytes back until the character is complete.
It knows the bytes of each id and nothing else about the tokenizer.
"""

import codecs
from collections.abc import Callable, Iterable


class DetokenizeStream:
    """Text of a growing sequence of ids: everything pushed and finished, joined, equals `Tokenizer.decode`.

    Example:
        The euro sign is three bytes; pushed as three byte tokens it gives "", "" and then "€".
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """The text that these ids complete; "" while a character is still in pieces.

        Raises:
            UsageError: an id is not in the vocabulary; ids before it have been taken.
        """
        return "".join(self._decoder.decode(self._token_bytes(token)) for token in ids)

    def finish(self) -> str:
        """What was held back, as U+FFFD if it never became a character. The stream is empty afterwards."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
