"""The memory of decoding: paged MLA latents, and one pass's view of them.

Every layer (backbone and prediction modules) keeps kv_lora_rank + rope values a token, in blocks of `block_size`
tokens. A pass writes its new entries at slots and gathers the blocks of its rows. Who owns a block is not known here.
"""

import torch
from torch import Tensor

from mtp.config import ModelConfig
from mtp.decode.blocks import RESERVED


class LatentPages:
    """`layers` x (RESERVED + `blocks`) blocks, allocated once: the memory that decoding can ever use."""

    def __init__(
        self, config: ModelConfig, layers: int, blocks: int, block_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.block_size = block_size
        self.rank = config.kv_lora_rank
        self.width = config.kv_lora_rank + config.qk_rope_head_dim
        pages = torch.zeros(layers, RESERVED + blocks, block_size * self.width, device=device, dtype=dtype)
        self.blocks: tuple[Tensor, ...] = pages.unbind(0)
        self.slots: tuple[Tensor, ...] = tuple(layer.view(-1, self.width) for layer in self.blocks)
        self.nbytes = pages.nbytes

    def erase(self, blocks: list[int]) -> None:
        """Zero blocks that hold values that are not finite: masked entries are read too, and 0 x NaN is NaN."""
        index = torch.tensor(blocks, device=self.blocks[0].device)
        for layer in self.blocks:
            layer.index_fill_(0, index, 0.0)


class PageView:
    """The model's LatentCache for one pass: B rows, each with its own blocks."""

    def __init__(self, pages: LatentPages, read_blocks: Tensor, write_slots: Tensor, rows: int) -> None:
        """read_blocks (B * blocks a row,) and write_slots (B * q,) int64, row after row."""
        self._pages = pages
        self._read = read_blocks
        self._write = write_slots
        self._rows = rows

    def append(self, layer: int, latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
        """See mtp.model.LatentCache; S is the rows' blocks times block_size."""
        pages = self._pages
        entries = torch.cat((latent, rope_key), dim=-1).view(-1, pages.width)
        pages.slots[layer].index_copy_(0, self._write, entries)
        seen = pages.blocks[layer].index_select(0, self._read).view(self._rows, -1, pages.width)
        return seen[..., : pages.rank], seen[..., pages.rank :]
