"""Drafts copied from the sequence itself: what followed the last time its final n-gram occurred (Saxena 2023)."""

from mtp.decode.sequence import Sequence

LONGEST, SHORTEST = 4, 2


class PromptLookup:
    """An index of the n-grams of one sequence, extended as it grows."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def draft(self, tokens: list[int], count: int) -> list[int]:
        """Up to `count` tokens that followed the newest earlier occurrence of the longest known ending.

        [1, 2, 3, 1, 2] with count 2 gives [3, 1].
        """
        self._extend(tokens)
        for size in range(min(LONGEST, len(tokens) - 1), SHORTEST - 1, -1):
            place = self._after.get(tuple(tokens[-size:]))
            if place is not None:
                return tokens[place : place + count]
        return []

    def _extend(self, tokens: list[int]) -> None:
        """Index n-grams that end before the last token: the last ones have no continuation yet."""
        for end in range(max(self._indexed, SHORTEST), len(tokens)):
            for size in range(SHORTEST, min(LONGEST, end) + 1):
                self._after[tuple(tokens[end - size : end])] = end
        self._indexed = len(tokens)


class PromptLookups:
    """The indexes of the running sequences."""

    def __init__(self) -> None:
        self._of: dict[int, PromptLookup] = {}

    def draft(self, sequence: Sequence, count: int) -> list[int]:
        """See PromptLookup.draft."""
        return self._of.setdefault(sequence.id, PromptLookup()).draft(sequence.tokens, count)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._of.pop(sequence.id, None)
