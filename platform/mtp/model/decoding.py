"""What the model asks of whoever decodes with it: where the latent cache is, and which entries each query may see.

The model knows nothing of slots, blocks or requests. It hands new latents to the cache, gets back all entries that
the pass attends to, and masks them as it is told.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class LatentCache(Protocol):
    """Keeps, for each layer and token, MLA's normalised latent and its rotated key (kv_lora_rank + rope values)."""

    def append(self, layer: int, latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
        """Write this pass's q entries of `layer`, and return all S entries to attend to.

        Args:
            layer: 0..N-1 are the backbone's layers, N.. those of the prediction modules.
            latent: (B, q, kv_lora_rank).
            rope_key: (B, q, rope).

        Returns:
            latent (B, S, kv_lora_rank) and rope_key (B, S, rope), the new entries among them.
        """
        ...


@dataclass(frozen=True)
class PassInput:
    """One decoding pass over q new tokens of each of B sequences."""

    positions: Tensor
    """(B, q) int64: positions of the new tokens, for RoPE."""
    mask: Tensor
    """(B, q, S) bool: True where query i attends to cache entry j. A query with none gives an arbitrary finite row."""
    cache: LatentCache
