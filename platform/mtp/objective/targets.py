"""Which token each position predicts at each horizon, and with what weight.

The target table of multi-token prediction with every mask in it: ends of rows, ends of documents, padding, masked
targets. Knows token ids and document ordinals; knows nothing of models, losses or schedules.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtp.errors import UsageError


@dataclass(frozen=True)
class Targets:
    """The targets of a batch of rows, for horizons 1..n (index k-1 holds horizon k).

    `ids[k-1, b, i]` is the token at slot i+k of row b, and `weights[k-1, b, i]` is w(token) where that target counts
    and 0 where it does not (its id is then 0 and means nothing).
    """

    ids: Tensor
    """(n, B, T) int64."""
    weights: Tensor
    """(n, B, T) float32."""
    positions: Tensor
    """() float32: slots of the batch that hold a token, padding left out. The T of `reduction: paper`."""

    @property
    def valid(self) -> Tensor:
        """(n, B, T) bool: whether slot i counts for horizon k."""
        return self.weights > 0


def build_targets(
    tokens: Tensor,
    document: Tensor,
    n_future: int,
    target_mask: Tensor | None = None,
    token_weights: Tensor | None = None,
) -> Targets:
    """The target table: slot i predicts the token at slot i+k, for k = 1..n_future.

    With one document x1..x8 and n_future = 4, slot 5 (of x5) predicts x6, x7, x8 and nothing::

        slot | horizon 1 | horizon 2 | horizon 3 | horizon 4
          5  |    x6     |    x7     |    x8     |    --

    Args:
        tokens: (B, T) int64.
        document: (B, T) int, ordinal of the slot's document within its row; -1 marks padding.
        n_future: the largest horizon.
        target_mask: (B, T) bool, True where the token may be a target (a chat prompt is False); None: everywhere.
        token_weights: (V,) float, the importance w(x); None: 1 for every token.

    Raises:
        UsageError: rows of no tokens, shapes that differ, or n_future beyond the length of a row.
    """
    _check(tokens, document, n_future, target_mask)
    rows, length = tokens.shape
    countable = document >= 0
    if target_mask is not None:
        countable = countable & target_mask.bool()
    ids = tokens.new_zeros((n_future, rows, length))
    weights = torch.zeros((n_future, rows, length), dtype=torch.float32, device=tokens.device)
    for k in range(1, n_future + 1):
        valid = countable[:, k:] & (document[:, k:] == document[:, : length - k])
        ids[k - 1, :, : length - k] = tokens[:, k:] * valid
        weights[k - 1, :, : length - k] = valid
    if token_weights is not None:
        weights = weights * token_weights.to(weights)[ids]
    return Targets(ids, weights, (document >= 0).sum(dtype=torch.float32))


def _check(tokens: Tensor, document: Tensor, n_future: int, target_mask: Tensor | None) -> None:
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise UsageError(f"tokens have the shape {tuple(tokens.shape)}; give rows of at least one token, (B, T)")
    for name, tensor in (("document", document), ("target_mask", target_mask)):
        if tensor is not None and tensor.shape != tokens.shape:
            raise UsageError(
                f"{name} has the shape {tuple(tensor.shape)} and tokens {tuple(tokens.shape)}; they must be equal"
            )
    if not 1 <= n_future <= tokens.shape[1]:
        raise UsageError(
            f"n_future is {n_future}, but rows hold {tokens.shape[1]} tokens; "
            f"lower model.prediction.n_future or use longer rows"
        )
