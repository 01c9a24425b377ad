"""The few exchanges between ranks that training needs beside the engine's own."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def summed(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all ranks, in place; equal on every rank."""
    if dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def from_rank_zero(value: Any) -> Any:
    """Rank 0's `value` on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Every rank's `value`, by rank, on every rank; through `group` of all ranks instead of the usual one."""
    values: list[Any] = [value] * dist.get_world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value, group=group)
    return values


def on_any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on at least one rank."""
    return bool(summed(torch.tensor([float(flag)], device=device)).item())
