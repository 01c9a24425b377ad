"""How many tokens to draft: the lengths that promise the most tokens a second, from what was seen so far.

    maximise  sum_r (1 + A_r1 + A_r1 A_r2 + ...)  /  (verify(rows + drafts) + sum_k draft(rows that draft k))

A_rk is the chance that draft k of request r stands once those before it do. It is a mean over the request's own past
that leans on the mean of all requests; the costs are calibrated at the start and corrected by every step (costs.py).
Decisions depend on the past alone, so acceptance stays exact whatever is decided.

What keeps this from ever costing much more than standard decoding does: a request gets modules only where they promise
to earn the filling of their caches; one whose drafts have not paid for PATIENCE steps is left to standard decoding for
good, and costs what that costs; a promise counts for as much as earlier ones turned out to be worth (turns.py); and
while drafts do not seem to pay, single requests probe them whenever REGRET of the time spent allows.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import NamedTuple

from mtp.decode.costs import StepCosts
from mtp.decode.sequence import Sequence
from mtp.decode.turns import Step, Turns

PATIENCE = 16
COLD_STEPS, LONGEST_COLD = 8, 64
"""The first steps after a prompt find other weights in the caches than the later ones, and take up to three times as
long: nothing is learned from them about what costs what, unless prompts come so often that nothing else is left."""
AFTERMATH = 1.35
"""Times the seconds of filling a module's cache, what it costs: it drives weights of the backbone out of the caches of
the processor, so that steps after it take longer (on a Xeon, with 66M parameters, by a third of it)."""
REGRET, PROBE_STEPS = 0.01, 32
"""Share of the time that probing may cost, and drafting steps of one probe."""
OPTIMISM, OPTIMISM_WEIGHT = 0.75, 100.0
"""What is believed of a draft before any was seen, and how many trials move that half way to what they show: several
requests', since texts differ more than the drafts of one."""
OWN_WEIGHT = 12.0
"""So many trials of its own move a request half way from the mean of all to its own mean."""
OWN_MEMORY, MEMORY = 0.97, 0.998
"""Weight of a trial after one more, in a request's mean and in the mean of all."""
MARGIN = 1.1
"""Drafts have to promise so much more than standard decoding before they begin: estimates are noisy, and requests whose
drafts stand less often end later, in a batch that has become smaller by then."""


@dataclass
class Acceptance:
    """Trials and successes of each draft position, older ones weighing less."""

    memory: float
    tried: list[float] = field(default_factory=list)
    stood: list[float] = field(default_factory=list)

    def observe(self, drafted: int, accepted: int) -> None:
        """Position k was tried if all before it stood."""
        while len(self.tried) < drafted:
            self.tried.append(0.0)
            self.stood.append(0.0)
        for k in range(min(accepted + 1, drafted)):
            self.tried[k] = self.tried[k] * self.memory + 1.0
            self.stood[k] = self.stood[k] * self.memory + (1.0 if k < accepted else 0.0)

    def chance(self, k: int, belief: float, weight: float) -> float:
        """Of draft k (from 0), leaning on `belief` like on `weight` trials."""
        tried, stood = (self.tried[k], self.stood[k]) if k < len(self.tried) else (0.0, 0.0)
        return (stood + belief * weight) / (tried + weight)


@dataclass
class Probe:
    """One request that drafts although drafts do not pay."""

    request: int
    cost: float
    steps: int = 0


class Choice(NamedTuple):
    """Draft lengths, and their tokens a second over those of standard decoding, as promised."""

    lengths: list[int]
    gain: float


@dataclass
class NextStep:
    """What was chosen for the step to come, and the seconds that its drafts took."""

    turns: Turns
    promise: float | None
    probing: bool = False
    draft_seconds: float = 0.0


class DraftController:
    """Chooses draft lengths for the requests that leave them open."""

    def __init__(self, costs: StepCosts, most: int) -> None:
        """`most`: the largest number of drafts a step."""
        self.costs = costs
        self._most = most
        self._everyone = Acceptance(MEMORY)
        self._newcomers: list[Sequence] = []
        self._own: dict[int, Acceptance] = {}
        self._idle: dict[int, int] = {}
        self._turns: dict[int, Turns] = {}
        self._next: NextStep | None = None
        self._drafting = False
        self._probe: Probe | None = None
        self._spent = 0.0
        self._probed = 0.0
        self._since_prompt = 0
        self._unlearned = 0

    def meet(self, sequence: Sequence) -> None:
        """A request has come; what becomes of it is decided before its first pass, by `settle`."""
        self._newcomers.append(sequence)

    def settle(self, rows: int) -> None:
        """Decide how many modules each newcomer keeps up, now that `rows` are known to run together."""
        if not self._newcomers:
            return
        belief, worth = [self._belief(k) for k in range(self._most)], self._turns_of(rows).worth
        choice = best_lengths([belief] * rows, 0, self.costs, MARGIN / worth)
        for sequence in self._newcomers:
            self._enter(sequence, rows, choice)
        self._newcomers.clear()

    def controls(self, sequence: Sequence) -> bool:
        """Whether this request's lengths are chosen here."""
        return sequence.id in self._own

    def leave(self, sequence: Sequence) -> None:
        """The request has ended, or is left to standard decoding."""
        if sequence in self._newcomers:
            self._newcomers.remove(sequence)
        self._own.pop(sequence.id, None)
        self._idle.pop(sequence.id, None)
        if self._probe is not None and self._probe.request == sequence.id:
            self._end_probe(self._probe)

    def observe(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """So many of a request's drafts stood."""
        if drafted:
            self._everyone.observe(drafted, accepted)
        if sequence.id in self._own:
            self._own[sequence.id].observe(drafted, accepted)
            self._idle[sequence.id] = 0 if drafted else self._idle[sequence.id] + 1

    def prefilled(self) -> None:
        """A prompt, or a part of one, was computed."""
        self._since_prompt = 0

    def drafted(self, rows: int, levels: int, seconds: float) -> None:
        """`levels` drafts in a row, for `rows` requests at first, took so long together."""
        self.costs.drafted(rows, levels, seconds)
        if self._next is not None:
            self._next.draft_seconds += seconds

    def verified(self, rows: int, drafts: int, accepted: int, seconds: float) -> None:
        """A step's pass over a token of each of `rows` requests and all their drafts took so long."""
        self._count_turn(rows, drafts, accepted, seconds)
        self._spent += seconds
        self._since_prompt += 1
        self._unlearned += 1
        if self._since_prompt > COLD_STEPS or self._unlearned > LONGEST_COLD:
            self._unlearned = 0
            self.costs.verified(rows + drafts, seconds)

    def gave_up(self, sequence: Sequence) -> bool:
        """Whether drafts have not paid for this request for long."""
        return self._idle.get(sequence.id, 0) >= PATIENCE

    def choose(self, sequences: Items[Sequence], rooms: Items[int], fixed: int) -> list[int]:
        """Draft lengths of controlled requests; `rooms` bounds each, `fixed` counts everybody else's tokens."""
        turns = self._turns_of(len(sequences) + fixed)
        if turns.plain_is_due:
            self._next = NextStep(turns, None)
            return [0] * len(sequences)
        chances = [
            [self._own[sequence.id].chance(k, self._belief(k), OWN_WEIGHT) for k in range(min(room, self._most))]
            for sequence, room in zip(sequences, rooms, strict=True)
        ]
        margin = 1.0 if self._drafting else MARGIN
        choice = best_lengths(chances, fixed, self.costs, margin / turns.worth)
        self._drafting = any(choice.lengths)
        probing = self._probe is not None and self._prolong(self._probe, sequences, rooms, choice.lengths)
        self._next = NextStep(turns, choice.gain if self._drafting else None, probing)
        return choice.lengths

    def _count_turn(self, rows: int, drafts: int, accepted: int, seconds: float) -> None:
        """Steps whose drafts were not chosen for what they promise show nothing; those without drafts always do."""
        chosen, self._next = self._next, None
        if chosen is None:
            if drafts:
                return
            chosen = NextStep(self._turns_of(rows), None)
        if chosen.probing:
            if self._probe is not None:
                self._pay(self._probe, seconds + chosen.draft_seconds - self.costs.verify(rows))
            return
        relative = (seconds + chosen.draft_seconds) / self.costs.calibrated(rows)
        chosen.turns.count(Step(rows, rows + accepted, relative), chosen.promise)

    def _turns_of(self, tokens: int) -> Turns:
        return self._turns.setdefault(tokens.bit_length(), Turns())

    def _enter(self, sequence: Sequence, rows: int, choice: Choice) -> None:
        depth, filling = max(choice.lengths), AFTERMATH * self.costs.fill(len(sequence.tokens))
        share, gain = sequence.remaining * self.costs.verify(rows) / rows, choice.gain * self._turns_of(rows).worth
        if not depth or share * (1 - 1 / gain) <= depth * filling:
            depth = self._most if self._may_probe(rows, self._most * filling) else 0
            if depth:
                self._probe = Probe(sequence.id, depth * filling)
        sequence.draft_limit, sequence.module_depth = depth, min(depth, sequence.module_depth)
        if depth:
            self._own[sequence.id], self._idle[sequence.id] = Acceptance(OWN_MEMORY), 0

    def _belief(self, k: int) -> float:
        return self._everyone.chance(k, OPTIMISM, OPTIMISM_WEIGHT)

    def _may_probe(self, rows: int, filling: float) -> bool:
        """Whether the budget has grown to what a probe among `rows` requests is going to cost."""
        a_step = self._extra(rows, self._most)
        return self._probe is None and self._probed + filling + PROBE_STEPS * a_step <= REGRET * self._spent

    def _extra(self, tokens: int, drafts: int) -> float:
        """Seconds that one request's drafts add to a step of so many tokens."""
        return self.costs.verify(tokens + drafts) - self.costs.verify(tokens) + drafts * self.costs.draft(1)

    def _prolong(self, probe: Probe, sequences: Items[Sequence], rooms: Items[int], lengths: list[int]) -> bool:
        """Let the probing request draft more than it was given; whether it does."""
        place = next((place for place, one in enumerate(sequences) if one.id == probe.request), None)
        if place is None or lengths[place] >= min(rooms[place], self._most):
            return False
        lengths[place] = min(rooms[place], self._most)
        return True

    def _pay(self, probe: Probe, seconds: float) -> None:
        """A probing step took so much longer than standard decoding."""
        probe.cost += seconds
        probe.steps += 1
        if probe.steps >= PROBE_STEPS:
            self._end_probe(probe)

    def _end_probe(self, probe: Probe) -> None:
        self._probe = None
        self._probed += max(probe.cost, 0.0)


def best_lengths(chances: Items[Items[float]], fixed: int, costs: StepCosts, margin: float) -> Choice:
    """The draft length of each request that maximises expected tokens a second.

    Drafts are added in the order of their chance to be emitted, and the best number of them is kept: a request's later
    drafts are never likelier than its earlier ones, so each prefix of that order is a set of lengths.

    Args:
        chances: of each request, that draft k stands if all before it do.
        fixed: tokens of the pass that belong to others.
        costs: seconds of passes and drafts.
        margin: drafts have to promise so many times the tokens a second of standard decoding.
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
    standard = expected / costs.verify(tokens)
    best, best_rate = Choice(list(lengths), 1.0), margin * standard
    for gain, k, row in ranked:
        lengths[row], levels[k] = k + 1, levels[k] + 1
        expected, tokens = expected - gain, tokens + 1
        rate = expected / (costs.verify(tokens) + sum(costs.draft(rows) for rows in levels if rows))
        if rate > best_rate:
            best, best_rate = Choice(list(lengths), rate / standard), rate
    return best
