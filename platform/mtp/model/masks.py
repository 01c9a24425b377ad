"""Which token of a packed row may attend to which, in the form that the device's faster kernel takes.

A token sees the past of its own document. Padding (document -1) forms a document of its own, so that no query is left
without a key. Two kernels take such a mask: scaled_dot_product_attention a dense one, FlexAttention a block mask that
lets it leave out what lies between documents. Which is faster is measured once for each device and shape.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

AttentionMask = Tensor | BlockMask
"""Dense: (B, 1, T, T) bool, True = attend. BlockMask: the same for FlexAttention."""

RUNS = 5
"""Timed runs of each kernel; the fastest counts."""


@dataclass(frozen=True)
class AttentionShape:
    """What the choice of a kernel depends on: H heads, T tokens, sizes of a key and of a value."""

    device: torch.device
    dtype: torch.dtype
    heads: int
    length: int
    key: int
    value: int


def document_mask(document: Tensor) -> Tensor:
    """True where query i attends to key j: j <= i and the same document.

    document [[0, 0, 1]] gives rows [1,0,0], [1,1,0], [0,0,1].

    Args:
        document: (B, T) int, ordinals of the documents in the row; -1 is padding.

    Returns:
        (B, 1, T, T) bool.
    """
    same = document.unsqueeze(-1) == document.unsqueeze(-2)
    return same.tril_().unsqueeze(1)


def document_blocks(document: Tensor) -> BlockMask:
    """`document_mask` as FlexAttention wants it: blocks of 128 x 128 that hold nothing are never computed."""

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (document[row, query] == document[row, key])

    rows, length = document.shape
    return create_block_mask(visible, rows, None, length, length, device=str(document.device))


def attention_mask(document: Tensor, shape: AttentionShape) -> AttentionMask:
    """The mask of packed rows, for the kernel that is faster at `shape`."""
    if shape.device.type != "cpu" and flex_is_faster(shape):  # FlexAttention has no backward on the CPU
        return document_blocks(document)
    return document_mask(document)


@lru_cache(maxsize=64)
def flex_is_faster(shape: AttentionShape) -> bool:
    """Whether FlexAttention trains faster than scaled_dot_product_attention with a dense mask, by the clock."""
    document = torch.arange(shape.length, device=shape.device).mul(4).div(shape.length, rounding_mode="floor")
    dense, blocks = document_mask(document[None]), document_blocks(document[None])
    size = (1, shape.heads, shape.length)
    query, key = (torch.randn(*size, shape.key, device=shape.device, dtype=shape.dtype) for _ in range(2))
    value = torch.randn(*size, shape.value, device=shape.device, dtype=shape.dtype)
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    flex = _seconds(lambda: flex_attend(query, key, value, blocks, 1.0), inputs)
    sdpa = _seconds(lambda: sdpa_attend(query, key, value, dense, 1.0), inputs)
    return flex < sdpa


def flex_attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """FlexAttention, compiled where it is used for training; (B, H, T, .) -> (B, H, T, v)."""
    compiled = query.device.type != "cpu"
    out: Tensor = (_compiled_flex() if compiled else cast(Any, flex_attention))(
        query, key, value, block_mask=mask, scale=scale
    )
    return out


def sdpa_attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """scaled_dot_product_attention, causal where there is no mask; (B, H, T, .) -> (B, H, T, v).

    Values are padded to the keys' size: PyTorch's fast paths take equal sizes only.
    """
    size = value.shape[-1]
    value = F.pad(value, (0, max(0, query.shape[-1] - size)))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out[..., :size]


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    """Not compiled, FlexAttention holds every score."""
    return torch.compile(flex_attention)


def _seconds(attend: Callable[[], Tensor], inputs: list[Tensor]) -> float:
    """Fastest forward and backward of a few, after a first that compiles."""
    seconds = []
    for _ in range(RUNS + 1):
        torch.accelerator.synchronize()
        began = time.perf_counter()
        torch.autograd.grad(attend().sum(), inputs)
        torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
