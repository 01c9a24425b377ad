"""A model as the engine runs it: passes over a window of each row. Two ways to compute them, one interface.

`TorchNetwork` is mtp.model itself, on any device. `native.network.NativeNetwork` is one C++ call a pass on the
processor. Both read and write the engine's latent pages; neither knows requests.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.nn.functional import linear

from mtp.decode.hidden_ring import HiddenRing
from mtp.decode.rows import Rows
from mtp.decode.verification import Emission
from mtp.model import MTPModel


@dataclass(frozen=True)
class Window:
    """Which tokens a pass is about: `counts` (B,) >= 1 of each of `rows` (B,), from positions `starts` (B,) on.

    Tensors of a pass are (B, q) with q = max(counts); behind a row's count they hold anything finite.
    """

    rows: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @property
    def width(self) -> int:
        """q."""
        return int(self.counts.max())


class Greedy(Protocol):
    """Steps in which every token is the most likely one, each made at one go."""

    def step(
        self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, wanted: np.ndarray
    ) -> tuple[Emission, float]:
        """Drafts of chained modules, and one pass over everybody's last token and drafts.

        Args:
            rows: (B,).
            starts: (B,) where each row's last token is.
            counts: (B,) that token and its drafts.
            wanted: (B,) drafts that are still to be made, by modules: all of a row's or none.

        Returns:
            What stands, which is also written behind the row's tokens (and the states into the ring), and the seconds
            that the drafts took.
        """
        ...

    def draft(self, rows: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> None:
        """Put counts[b] >= 1 drafts of chained modules behind the lengths[b] tokens of rows[b] (B,).

        Keeps ring and `Rows.filled` up to date.
        """
        ...


class Network(Protocol):
    """What the engine and its drafters ask of a model."""

    def backbone(self, tokens: Tensor, window: Window) -> Tensor:
        """Tokens (B, q) -> h^0 (B, q, d); writes cache layers 0..N-1."""
        ...

    def module(self, k: int, hidden: Tensor, tokens: Tensor, window: Window) -> Tensor:
        """Chained modules: h^{k-1} (B, q, d) at slots i and t_{i+k} (B, q) -> h^k (B, q, d)."""
        ...

    def horizons(self, hidden: Tensor, window: Window) -> list[Tensor]:
        """Other modules: h^0 (B, q, d) -> the states (B, q, d) of horizons 2..n."""
        ...

    def logits(self, hidden: Tensor, horizon: int = 1, first: int | None = None) -> Tensor:
        """States (..., d) -> logits (..., V), or of the `first` ids alone (..., first)."""
        ...

    def greedy(self, ring: HiddenRing | None, first: int | None) -> Greedy | None:
        """What makes greedy steps at one go, or None; drafts come from the `first` ids.

        `ring`: where the modules find their inputs; None without modules.
        """
        ...


class TorchNetwork:
    """The model in PyTorch, on whatever device it is."""

    def __init__(self, model: MTPModel, rows: Rows) -> None:
        self._model = model
        self._rows = rows

    def backbone(self, tokens: Tensor, window: Window) -> Tensor:
        """See Network."""
        return self._model.decode_backbone(tokens, self._rows.plan(window.rows, window.starts, window.counts))

    def module(self, k: int, hidden: Tensor, tokens: Tensor, window: Window) -> Tensor:
        """See Network."""
        plan = self._rows.plan(window.rows, window.starts, window.counts)
        return self._model.prediction.decode(k, hidden, tokens, plan)

    def horizons(self, hidden: Tensor, window: Window) -> list[Tensor]:
        """See Network."""
        plan = self._rows.plan(window.rows, window.starts, window.counts)
        return self._model.prediction.draft_hiddens(hidden, plan)

    def logits(self, hidden: Tensor, horizon: int = 1, first: int | None = None) -> Tensor:
        """See Network."""
        return linear(hidden, self._model.heads()[horizon - 1][:first])

    def greedy(self, ring: HiddenRing | None, first: int | None) -> None:
        """See Network."""
