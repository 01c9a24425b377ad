"""Measures a network's passes when an engine starts, on random tokens whose cache entries go to the trash block.

Nothing of PyTorch's runs on several threads between two passes of the compiled step: OpenMP's threads spin for
milliseconds after each operation, on the processors that the next pass needs, and it would seem to take twice as long.
"""

import numpy as np
import torch

from mtp.decode.blocks import TRASH_BLOCK
from mtp.decode.costs import NOTHING, Curve, StepCosts, difference, measure, sizes_up_to
from mtp.decode.network import Greedy, Network, Window
from mtp.decode.options import EngineOptions
from mtp.decode.rows import Rows
from mtp.model import MTPModel

CONTEXT = 256
"""Tokens before those of a measured pass, or half of what the engine holds."""
STOOD, MORE = 2, 3
"""Slots that a module makes up for when it drafts: those of a token and of one draft that stood. And so many more, to
see what each of them costs."""
FILLS = (1, 16, 64)
"""Tokens of a prompt at which filling is measured."""


@torch.inference_mode()
def step_costs(
    model: MTPModel, network: Network, greedy: Greedy | None, rows: Rows, most: int, options: EngineOptions
) -> StepCosts:
    """Seconds of a target pass by its tokens, of one more draft by its rows, and of filling a module's cache.

    Args:
        model: whose passes these are.
        network: runs them.
        greedy: makes greedy steps at one go, where there is such a thing.
        rows: nobody's yet; left as they were found.
        most: the largest number of drafts a step.
        options: of the engine.
    """
    size, longest = len(rows.tables), rows.tables.shape[1] * options.block_size
    tables, filled = rows.tables.copy(), rows.filled.copy()
    rows.tables[:] = TRASH_BLOCK
    context = max(min(longest // 2, CONTEXT, longest - most - 1, longest - STOOD - MORE - 1), 0)
    passes = _Passes(model, network, greedy, rows, context, longest, options.draft_vocab_size)
    try:
        verify = measure(passes.step_before, passes.verify, sizes_up_to(size * (most + 1)))
        draft, slots = passes.drafts(sizes_up_to(size))
        fill = measure(lambda _: passes.verify(1), passes.fill, sorted({min(tokens, longest) for tokens in FILLS}))
    finally:
        rows.tables[:], rows.filled[:] = tables, filled
    return StepCosts(verify, draft, fill, slots)


class _Passes:
    """The passes of an engine, each over other random tokens, which take other experts each time."""

    def __init__(
        self,
        model: MTPModel,
        network: Network,
        greedy: Greedy | None,
        rows: Rows,
        context: int,
        longest: int,
        draft_vocab_size: int | None,
    ) -> None:
        self._model, self._network, self._rows = model, network, rows
        self._context, self._longest = context, longest
        self._greedy, self._chained = greedy, model.prediction.chained
        self._size = len(rows.tables)
        self._draft_vocab_size = draft_vocab_size
        self._device = model.lm_head.weight.device
        self._dice = torch.Generator().manual_seed(0)

    def verify(self, tokens: int) -> None:
        """A target pass over so many tokens, of as many rows as there are."""
        counts = np.full(min(tokens, self._size), tokens // min(tokens, self._size))
        counts[: tokens - int(counts.sum())] += 1
        window = self._window(counts, self._context)
        if self._greedy is not None:
            self._greedy.step(window.rows, window.starts, window.counts, np.zeros_like(window.counts))
            return
        self._network.logits(self._network.backbone(self._tokens(len(counts), window.width), window))
        self._wait()

    def step_before(self, tokens: int) -> None:
        """What a step does before it verifies so many tokens: the step before, and the drafts."""
        self.verify(tokens)
        for _ in range((tokens - 1) // self._size):
            self.draft(min(tokens, self._size))
        self._write(min(tokens, self._size), -(-tokens // self._size))

    def drafts(self, sizes: list[int]) -> tuple[Curve, Curve]:
        """One draft by its rows; and one more slot that it makes up for, where chained drafts are made at one go."""
        few = measure(self.before_drafts, self.draft, sizes)
        if self._greedy is None or not self._chained or self._longest <= STOOD + MORE:
            return few, NOTHING
        many = measure(self.before_drafts, lambda rows: self.draft(rows, STOOD + MORE), sizes)
        return few, difference(many, few, MORE)

    def before_drafts(self, rows: int) -> None:
        """What a step does before it drafts for so many rows: it verifies, and the tokens that stand are others."""
        self.verify(rows)
        self._write(rows, STOOD + MORE + 1)

    def draft(self, rows: int, stood: int = STOOD) -> None:
        """One draft for each of so many rows, behind the slots of the tokens that stood."""
        if self._greedy is not None and self._chained:
            self._rows.filled[:rows, 0] = self._context
            lengths = np.full(rows, self._context + stood + 1)
            self._greedy.draft(np.arange(rows), lengths, np.ones(rows, dtype=np.int64))
            return
        window = self._window(np.ones(rows, dtype=np.int64), self._context)
        state = self._module(window)
        self._network.logits(state, horizon=2, first=self._draft_vocab_size)
        self._wait()

    def fill(self, tokens: int) -> None:
        """A module's pass over a prompt."""
        self._module(self._window(np.array([tokens]), 0))
        self._wait()

    def _write(self, rows: int, count: int) -> None:
        """Let the next pass find other tokens."""
        self._rows.write(np.arange(rows), np.full(rows, self._context), self._tokens(rows, count))

    def _module(self, window: Window) -> torch.Tensor:
        ids = self._tokens(len(window.rows), window.width)
        hidden = self._model.model.embed_tokens(ids)
        if self._model.prediction.chained:
            return self._network.module(1, hidden, ids, window)
        return self._network.horizons(hidden, window)[0]

    def _tokens(self, rows: int, width: int) -> torch.Tensor:
        ids = torch.randint(self._model.config.vocab_size, (rows, width), generator=self._dice)
        return ids.to(self._device)

    @staticmethod
    def _window(counts: np.ndarray, start: int) -> Window:
        return Window(np.arange(len(counts)), np.full(len(counts), start, dtype=np.int64), counts.astype(np.int64))

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
