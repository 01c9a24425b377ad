"""How many tokens to draft: the lengths that promise the most tokens a second, from what was seen so far.

    maximise  sum_r (1 + A_r1 + A_r1 A_r2 + ...)  /  (verify(rows + drafts) + sum_k draft(rows that draft k))

A_rk is the chance that draft k of request r stands once those before it do. It is a mean over the request's own past
that leans on the mean of all requests; the costs are measured at the start and corrected by every step (costs.py).
Decisions depend on the past alone, so acceptance stays exact whatever is decided.

A request whose drafts have not paid for PATIENCE tokens stops keeping up its modules' caches, and from then on costs
what standard decoding costs. While drafts do not pay, new requests begin so too, but for one in PROBE_EVERY.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from mtp.decode.costs import StepCosts
from mtp.decode.sequence import Sequence

PATIENCE = 48
PROBE_EVERY = 24
OPTIMISM = 0.75
"""What is believed of a draft before any was seen."""
OWN_WEIGHT = 12.0
"""So many trials of its own move a request half way from the mean of all to its own mean."""
MEMORY = 0.97
"""Weight of a trial after one more."""
MARGIN = 1.1
"""A length has to promise so much more than a shorter one: estimates are noisy, standard decoding is safe."""


@dataclass
class Acceptance:
    """Trials and successes of each draft position, older ones weighing less."""

    tried: list[float] = field(default_factory=list)
    stood: list[float] = field(default_factory=list)

    def observe(self, drafted: int, accepted: int) -> None:
        """Position k was tried if all before it stood."""
        while len(self.tried) < drafted:
            self.tried.append(0.0)
            self.stood.append(0.0)
        for k in range(min(accepted + 1, drafted)):
            self.tried[k] = self.tried[k] * MEMORY + 1.0
            self.stood[k] = self.stood[k] * MEMORY + (1.0 if k < accepted else 0.0)

    def chance(self, k: int, belief: float, weight: float) -> float:
        """Of draft k (from 0), leaning on `belief` like on `weight` trials."""
        tried, stood = (self.tried[k], self.stood[k]) if k < len(self.tried) else (0.0, 0.0)
        return (stood + belief * weight) / (tried + weight)


class DraftController:
    """Chooses draft lengths for the requests that leave them open."""

    def __init__(self, costs: StepCosts, most: int) -> None:
        """`most`: the largest number of drafts a step."""
        self.costs = costs
        self._most = most
        self._everyone = Acceptance()
        self._own: dict[int, Acceptance] = {}
        self._idle: dict[int, int] = {}
        self._arrivals = 0

    def admits(self, rows: int) -> bool:
        """Whether a new request should keep its modules up, with `rows` requests running beside it."""
        self._arrivals += 1
        if self._arrivals % PROBE_EVERY == 0:
            return True
        chances = [[self._belief(k) for k in range(self._most)]] * (rows + 1)
        return best_lengths(chances, 0, self.costs) != [0] * (rows + 1)

    def enter(self, sequence: Sequence) -> None:
        """From now on choose for this request."""
        self._own[sequence.id], self._idle[sequence.id] = Acceptance(), 0

    def controls(self, sequence: Sequence) -> bool:
        """Whether this request's lengths are chosen here."""
        return sequence.id in self._own

    def leave(self, sequence: Sequence) -> None:
        """The request has ended, or is left to standard decoding."""
        self._own.pop(sequence.id, None)
        self._idle.pop(sequence.id, None)

    def observe(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """So many of a request's drafts stood."""
        self._everyone.observe(drafted, accepted)
        if sequence.id in self._own:
            self._own[sequence.id].observe(drafted, accepted)
            self._idle[sequence.id] = 0 if drafted else self._idle[sequence.id] + 1

    def gave_up(self, sequence: Sequence) -> bool:
        """Whether drafts have not paid for this request for long."""
        return self._idle.get(sequence.id, 0) >= PATIENCE

    def choose(self, sequences: Items[Sequence], rooms: Items[int], fixed: int) -> list[int]:
        """Draft lengths of controlled requests; `rooms` bounds each, `fixed` counts everybody else's tokens."""
        chances = [
            [self._own[sequence.id].chance(k, self._belief(k), OWN_WEIGHT) for k in range(min(room, self._most))]
            for sequence, room in zip(sequences, rooms, strict=True)
        ]
        return best_lengths(chances, fixed, self.costs)

    def _belief(self, k: int) -> float:
        return self._everyone.chance(k, OPTIMISM, 2.0)


def best_lengths(chances: Items[Items[float]], fixed: int, costs: StepCosts) -> list[int]:
    """The draft length of each request that maximises expected tokens a second.

    Drafts are added in the order of their chance to be emitted, and the best number of them is kept: a request's later
    drafts are never likelier than its earlier ones, so each prefix of that order is a set of lengths.

    Args:
        chances: of each request, that draft k stands if all before it do.
        fixed: tokens of the pass that belong to others.
        costs: seconds of passes and drafts.
    """
    ranked = []
    for row, own in enumerate(chances):
        reach = 1.0
        for k, chance in enumerate(own):
            reach *= chance
            ranked.append((-reach, k, row))
    ranked.sort()
    lengths, levels = [0] * len(chances), [0] * max((len(own) for own in chances), default=0)
    expected, tokens = float(len(chances)), len(chances) + fixed
    best, best_rate = list(lengths), MARGIN * expected / costs.verify(tokens)
    for gain, k, row in ranked:
        lengths[row], levels[k] = k + 1, levels[k] + 1
        expected, tokens = expected - gain, tokens + 1
        seconds = costs.verify(tokens) + sum(costs.draft(rows) for rows in levels if rows)
        if expected / seconds > best_rate:
            best, best_rate = list(lengths), expected / seconds
    return best
