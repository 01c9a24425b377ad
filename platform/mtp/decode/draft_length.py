"""How many tokens to draft for a request at this step."""

from mtp.decode.sequence import Sequence


class DraftLength:
    """As many as the request names, or as its decoder can make."""

    def choose(self, sequence: Sequence, room: int) -> int:
        """Drafts for the next step, at most `room`."""
        return min(sequence.draft_limit, room)

    def observe(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """A step verified `drafted` drafts of the sequence and accepted so many."""

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
