"""Counts of what decoding did: passes, tokens, accepted drafts by position, seconds. Adds up; decides nothing."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class DecodeStats:
    """Of one request, or of all requests of an engine."""

    target_passes: int = 0
    """Passes of the target that emitted tokens (for one request: its steps)."""
    tokens: int = 0
    drafted_per_position: list[int] = field(default_factory=list)
    """How often position k was drafted and verified."""
    accepted_per_position: list[int] = field(default_factory=list)
    """How often position k was accepted (so all before it were too)."""
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    prefill_seconds: float = 0.0

    @property
    def tokens_per_step(self) -> float:
        """Emitted tokens over target passes; 0 before the first."""
        return self.tokens / self.target_passes if self.target_passes else 0.0

    @property
    def acceptance_per_position(self) -> list[float]:
        """Share of the drafts of position k that were accepted, all positions before them included."""
        return [
            accepted / drafted if drafted else 0.0
            for accepted, drafted in zip(self.accepted_per_position, self.drafted_per_position, strict=True)
        ]

    def count_step(self, emitted: int, drafted: int, accepted: int) -> None:
        """One request's share of one target pass."""
        self.target_passes += 1
        self.tokens += emitted
        self._make_room(drafted)
        for position in range(drafted):
            self.drafted_per_position[position] += 1
        for position in range(accepted):
            self.accepted_per_position[position] += 1

    def add(self, other: "DecodeStats") -> None:
        """Count what another one counted."""
        self.target_passes += other.target_passes
        self.tokens += other.tokens
        self._make_room(len(other.drafted_per_position))
        for position, (drafted, accepted) in enumerate(
            zip(other.drafted_per_position, other.accepted_per_position, strict=True)
        ):
            self.drafted_per_position[position] += drafted
            self.accepted_per_position[position] += accepted
        self.draft_seconds += other.draft_seconds
        self.verify_seconds += other.verify_seconds
        self.prefill_seconds += other.prefill_seconds

    def copy(self) -> "DecodeStats":
        """Counts that do not grow."""
        found = DecodeStats()
        found.add(self)
        return found

    def reset(self) -> None:
        """Start again from nothing."""
        fresh = DecodeStats()
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def _make_room(self, positions: int) -> None:
        missing = positions - len(self.drafted_per_position)
        if missing > 0:
            self.drafted_per_position.extend([0] * missing)
            self.accepted_per_position.extend([0] * missing)
