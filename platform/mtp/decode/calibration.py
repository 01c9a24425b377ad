"""Measures a network's passes when an engine starts, on random tokens whose cache entries go to the trash block.

Nothing of PyTorch's runs on several threads between two passes of the compiled step: OpenMP's threads spin for
milliseconds after each operation, on the processors that the next pass needs, and it would seem to take twice as long.
"""

from collections.abc import Callable

import numpy as np
import torch

from mtp.decode.blocks import TRASH_BLOCK
from mtp.decode.costs import StepCosts, measure, sizes_up_to
from mtp.decode.network import Network, Window
from mtp.decode.options import EngineOptions
from mtp.decode.rows import Rows
from mtp.model import MTPModel

FILLS = (1, 16, 64)
"""Tokens of a prompt at which filling is measured."""


@torch.inference_mode()
def step_costs(model: MTPModel, network: Network, rows: Rows, most: int, options: EngineOptions) -> StepCosts:
    """Seconds of a target pass by its tokens, of one more draft by its rows, and of filling a module's cache.

    Args:
        model: whose passes these are.
        network: runs them.
        rows: nobody's yet; left as they were found.
        most: the largest number of drafts a step.
        options: of the engine.
    """
    size = len(rows.tables)
    tables = rows.tables.copy()
    rows.tables[:] = TRASH_BLOCK
    dice = torch.Generator().manual_seed(0)  # other tokens every time: they take other experts, as in a real step
    wait = torch.cuda.synchronize if model.lm_head.weight.device.type == "cuda" else lambda: None
    try:
        verify = measure(_target_pass(model, network, size, dice, wait), sizes_up_to(size * (most + 1)))
        draft = measure(_draft(model, network, options.draft_vocab_size, dice, wait), sizes_up_to(size))
        longest = rows.tables.shape[1] * options.block_size
        fill = measure(_fill(model, network, dice, wait), sorted({min(tokens, longest) for tokens in FILLS}))
    finally:
        rows.tables[:] = tables
    return StepCosts(verify, draft, fill)


def _target_pass(
    model: MTPModel, network: Network, size: int, dice: torch.Generator, wait: Callable[[], None]
) -> Callable[[int], None]:
    def run(tokens: int) -> None:
        counts = np.full(min(tokens, size), tokens // min(tokens, size))
        counts[: tokens - int(counts.sum())] += 1
        window = _window(counts)
        ids = _random_tokens(model, len(counts), window.width, dice)
        network.logits(network.backbone(ids, window))
        wait()

    return run


def _fill(model: MTPModel, network: Network, dice: torch.Generator, wait: Callable[[], None]) -> Callable[[int], None]:
    def run(tokens: int) -> None:
        window = _window(np.array([tokens]))
        ids = _random_tokens(model, 1, tokens, dice)
        hidden = model.model.embed_tokens(ids)
        if model.prediction.chained:
            network.module(1, hidden, ids, window)
        else:
            network.horizons(hidden, window)
        wait()

    return run


def _draft(
    model: MTPModel, network: Network, vocab_size: int | None, dice: torch.Generator, wait: Callable[[], None]
) -> Callable[[int], None]:
    chained = model.prediction.chained

    def run(rows: int) -> None:
        window = _window(np.ones(rows, dtype=np.int64))
        ids = _random_tokens(model, rows, 1, dice)
        hidden = model.model.embed_tokens(ids)
        state = network.module(1, hidden, ids, window) if chained else network.horizons(hidden, window)[0]
        network.logits(state, horizon=2, first=vocab_size)
        wait()

    return run


def _window(counts: np.ndarray) -> Window:
    return Window(np.arange(len(counts)), np.zeros(len(counts), dtype=np.int64), counts.astype(np.int64))


def _random_tokens(model: MTPModel, rows: int, width: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (rows, width), generator=generator).to(model.lm_head.weight.device)
