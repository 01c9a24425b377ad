"""One request while the engine works on it: its tokens, how far they are computed, and the memory it holds.

Pure bookkeeping: no tensors but the optional token counts of penalties, no decisions.
"""

import random
from dataclasses import dataclass, field

from mtp.decode.grammar import GrammarState
from mtp.decode.penalties import TokenCounts
from mtp.decode.request import Request, TokenLogprob
from mtp.decode.stats import DecodeStats

NO_ROW = -1


@dataclass(eq=False, slots=True)
class Sequence:
    """The life of a request: waiting (no row), running (a row of the batch), finished; preemption makes it wait again.

    `tokens` holds prompt and output. The backbone has computed (and cached) its first `computed` tokens; the first
    time that all of them are computed, and at every step from then on, the target emits.
    """

    id: int
    request: Request
    arrival: int
    """Steps the engine had made when the request came."""
    draft_limit: int
    """Most drafts a step that this request can have; 0 for standard decoding."""
    module_depth: int
    """How many prediction modules this request keeps up: one for each draft where they are chained, else one in all."""
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    row: int = NO_ROW
    blocks: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)
    published: int = 0
    """How many of the first blocks are offered for prefix sharing."""
    drafts: int = 0
    """Drafts that its next pass verifies."""
    seed: int = 0
    counts: TokenCounts | None = None
    grammar: GrammarState | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    stats: DecodeStats = field(default_factory=DecodeStats)

    def __post_init__(self) -> None:
        self.tokens = [*self.request.prompt, *self.request.emitted]
        seed = self.request.sampling.seed
        self.seed = (random.getrandbits(64) if seed is None else seed) & 0xFFFFFFFFFFFFFFFF
        if self.request.sampling.prompt_logprobs and not self.request.emitted:
            self.prompt_logprobs = [None]

    @property
    def emitted(self) -> int:
        """Tokens of the output so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def remaining(self) -> int:
        """Tokens that max_tokens still allows."""
        return self.request.sampling.max_tokens - self.emitted

    @property
    def uncomputed(self) -> int:
        """Known tokens that the backbone has not seen; 1 in steady decoding."""
        return len(self.tokens) - self.computed

    def stop_drafting(self) -> None:
        """Go on as standard decoding does; blocks that fill from now on are shared with requests that do the same."""
        self.drafts = self.draft_limit = self.module_depth = self.published = 0
        self.block_keys = []
