"""How many tokens to draft: the lengths that promise the most tokens a second, from what was seen so far.

What is promised is draft_lengths.py's arithmetic. The chance that a draft stands is a mean over the request's own past
that leans on the mean of all requests; the costs are calibrated at the start (costs.py). Requests that may not draft
count with the one token they get, and those that were left to standard decoding as if they drafted, since the ones that
follow them will do what pays now. Decisions depend on the past alone, so acceptance stays exact whatever is decided.

What keeps this from ever costing much more than standard decoding does: a request gets modules only where they promise
to earn the filling of their caches; one whose drafts have not paid for PATIENCE steps is left to standard decoding for
good, and costs what that costs; costs are held against what steps with drafts and without really took (turns.py); and
while drafts do not seem to pay, single requests probe them whenever REGRET of the time in which such requests ran, in
batches of about this size, allows.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from mtp.decode.costs import StepCosts
from mtp.decode.draft_lengths import Choice, Others, best_lengths, step_cost
from mtp.decode.sequence import Sequence
from mtp.decode.turns import Promise, Turns

PATIENCE = 16
AFTERMATH = 1.35
"""Times the seconds of filling a module's cache, what it costs: it drives weights of the backbone out of the caches of
the processor, so that steps after it take longer (on a Xeon, with 66M parameters, by a third of it)."""
REGRET, PROBE_STEPS = 0.01, 32
"""Share of the time of requests that may draft that probing may cost, and drafting steps of one probe."""
OPTIMISM, BELIEF_WEIGHT = 0.75, 100.0
"""What is believed of a draft of which nothing was measured, and how many trials move a belief half way to what they
show: several requests', since texts differ more than the drafts of one."""
OWN_WEIGHT = 12.0
"""So many trials of its own move a request half way from the mean of all to its own mean."""
OWN_MEMORY, MEMORY = 0.97, 0.998
"""Weight of a trial after one more, in a request's mean and in the mean of all."""
HELD = 4
"""Steps for which a choice holds while the requests are the same: choosing for 32 of them takes 0.3 ms."""
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
    turns: Turns
    """Of the batch size at which it began, which pays for it."""
    cost: float
    steps: int = 0


@dataclass
class Held:
    """A choice, for whom it was made, and for how many more steps it holds."""

    requests: tuple[int, ...]
    rooms: tuple[int, ...]
    others: Others
    lengths: list[int]
    cost: float
    """A step's seconds over those of a plain one, as first measured."""
    steps: int = HELD


@dataclass
class NextStep:
    """What was chosen for the step to come, and the seconds that choosing its drafts took."""

    turns: Turns
    promise: Promise | None
    probing: bool = False
    seconds: float = 0.0


class DraftController:
    """Chooses draft lengths for the requests that leave them open."""

    def __init__(self, costs: StepCosts, most: int, expected: Items[float] = ()) -> None:
        """`most`: the largest number of drafts a step; `expected`: the chance of drafts 1, 2, ... as far as known."""
        self.costs = costs
        self._most = most
        self._expected = [*expected[:most], *[OPTIMISM] * (most - len(expected))]
        self._everyone = Acceptance(MEMORY)
        self._newcomers: list[Sequence] = []
        self._met: set[int] = set()
        self._own: dict[int, Acceptance] = {}
        self._idle: dict[int, int] = {}
        self._turns: dict[int, Turns] = {}
        self._next: NextStep | None = None
        self._held: Held | None = None
        self._drafting = False
        self._probe: Probe | None = None

    def meet(self, sequence: Sequence) -> None:
        """A request has come; what becomes of it is decided before its first pass, by `settle`."""
        self._newcomers.append(sequence)
        self._met.add(sequence.id)

    def settle(self, rows: int) -> None:
        """Decide how many modules each newcomer keeps up, now that `rows` are known to run together."""
        if not self._newcomers:
            return
        alike = min(len(self._met), rows)
        choice = self._best([self._beliefs()] * alike, Others(rows - alike, rows - alike), MARGIN, self._turns_of(rows))
        for sequence in self._newcomers:
            self._enter(sequence, rows, alike, choice)
        self._newcomers.clear()

    def forget(self, sequence: Sequence) -> None:
        """The request has ended."""
        self.leave(sequence)
        self._met.discard(sequence.id)
        if sequence in self._newcomers:
            self._newcomers.remove(sequence)

    def leave(self, sequence: Sequence) -> None:
        """The request is left to standard decoding."""
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

    def decided(self, seconds: float) -> None:
        """It took so long to decide that there are drafts in the next step."""
        if self._next is not None:
            self._next.seconds += seconds

    def verified(self, rows: int, drafts: int, seconds: float) -> None:
        """A step took so long: the drafts of `rows` requests, and the pass over them and a token of each request."""
        told, self._next = self._next, None
        chosen = told or NextStep(self._turns_of(rows), None)
        if self._met:
            chosen.turns.spent += seconds
        if told is None and drafts:
            return  # they were not chosen for what they promise
        relative = (seconds + chosen.seconds) / self.costs.verify(rows)
        if not chosen.probing:
            chosen.turns.count(relative, chosen.promise)
        elif self._probe is not None:
            self._pay(self._probe, (relative - chosen.turns.pace) * self.costs.verify(rows))

    def gave_up(self, sequence: Sequence) -> bool:
        """Whether drafts have not paid for this request for long."""
        return self._idle.get(sequence.id, 0) >= PATIENCE

    def choose(self, sequences: Items[Sequence], rooms: Items[int]) -> list[int]:
        """Draft lengths of a step: within its room for each request that is controlled, the whole room for others."""
        places = [place for place, sequence in enumerate(sequences) if sequence.id in self._own]
        lengths = list(rooms)
        if places:
            some, others = [sequences[place] for place in places], self._others(sequences, rooms)
            chosen = self._choose(some, tuple(min(rooms[place], self._most) for place in places), others)
            for place, length in zip(places, chosen, strict=True):
                lengths[place] = length
        return lengths

    def _others(self, sequences: Items[Sequence], rooms: Items[int]) -> Others:
        rest = [(one.id, room) for one, room in zip(sequences, rooms, strict=True) if one.id not in self._own]
        return Others(len(rest), sum(1 + room for _, room in rest), sum(number in self._met for number, _ in rest))

    def _choose(self, sequences: Items[Sequence], rooms: tuple[int, ...], others: Others) -> list[int]:
        turns = self._turns_of(len(sequences) + others.tokens)
        if turns.plain_is_due:
            self._next = NextStep(turns, None)
            return [0] * len(sequences)
        held = self._hold(sequences, rooms, others, turns)
        lengths = list(held.lengths)
        self._drafting = any(lengths)
        probing = self._probe is not None and self._prolong(self._probe, sequences, rooms, lengths)
        promise = Promise(max(lengths), held.cost) if self._drafting and not probing else None
        self._next = NextStep(turns, promise, probing)
        return lengths

    def _hold(self, sequences: Items[Sequence], rooms: tuple[int, ...], others: Others, turns: Turns) -> Held:
        """The best lengths for these requests, or those of a few steps ago."""
        requests, held = tuple(sequence.id for sequence in sequences), self._held
        if held is None or not held.steps or (held.requests, held.rooms, held.others) != (requests, rooms, others):
            chances = [
                [self._own[request].chance(k, self._belief(k), OWN_WEIGHT) for k in range(room)]
                for request, room in zip(requests, rooms, strict=True)
            ]
            lengths = self._best(chances, others, 1.0 if self._drafting else MARGIN, turns).lengths
            plain = self.costs.verify(len(requests) + others.tokens)
            cost = step_cost(lengths, others.tokens, self.costs) / plain
            held = self._held = Held(requests, rooms, others, lengths, cost)
        held.steps -= 1
        return held

    def _best(self, chances: Items[Items[float]], others: Others, margin: float, turns: Turns) -> Choice:
        """The lengths that bring most as far as is known, and the gain to expect."""
        best = Choice([0] * len(chances), 1.0)
        everybody = [*chances, *[self._beliefs()] * others.left]
        rest = Others(others.requests - others.left, others.tokens - others.left)
        for depth in range(1, self._most + 1):
            overrun = turns.overrun(depth)
            choice = best_lengths([own[:depth] for own in everybody], rest, self.costs, margin * overrun)
            expected = Choice(choice.lengths[: len(chances)], choice.gain / overrun)
            if max(expected.lengths) == depth and (not any(best.lengths) or expected.gain > best.gain):
                best = expected
        return best

    def _turns_of(self, tokens: int) -> Turns:
        size = tokens.bit_length()
        if size not in self._turns:
            self._turns[size] = Turns(self._most)
        return self._turns[size]

    def _enter(self, sequence: Sequence, rows: int, alike: int, choice: Choice) -> None:
        """A newcomer gets modules if its share, as one of `alike`, of what drafts save pays for filling them."""
        depth, filling = max(choice.lengths), AFTERMATH * self.costs.fill(len(sequence.tokens))
        share = sequence.remaining * self.costs.verify(rows) / alike
        if share * (1 - 1 / choice.gain) <= depth * filling:
            depth = self._most if self._may_probe(rows, self._most * filling) else 0
            if depth:
                self._probe = Probe(sequence.id, self._turns_of(rows), depth * filling)
        sequence.draft_limit, sequence.module_depth = depth, min(depth, sequence.module_depth)
        if depth:
            self._own[sequence.id], self._idle[sequence.id] = Acceptance(OWN_MEMORY), 0

    def _beliefs(self) -> list[float]:
        return [self._belief(k) for k in range(self._most)]

    def _belief(self, k: int) -> float:
        return self._everyone.chance(k, self._expected[k], BELIEF_WEIGHT)

    def _may_probe(self, rows: int, filling: float) -> bool:
        """Whether the budget has grown to what a probe among `rows` requests is going to cost."""
        cost, turns = filling + PROBE_STEPS * self._extra(rows, self._most), self._turns_of(rows)
        return self._probe is None and turns.probed + cost <= REGRET * turns.spent

    def _extra(self, tokens: int, drafts: int) -> float:
        """Seconds that one request's drafts add to a step of so many tokens."""
        making = sum(self.costs.draft(1, k) for k in range(1, drafts + 1))
        return self.costs.verify(tokens + drafts) - self.costs.verify(tokens) + making

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
        probe.turns.probed += max(probe.cost, 0.0)
