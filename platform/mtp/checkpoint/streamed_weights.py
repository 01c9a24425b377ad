"""Writes safetensors one tensor at a time, so that a model larger than memory can be written.

The format (a length, a JSON header, the bytes) needs only shapes and dtypes up front. Knows nothing of models.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from mtp.checkpoint.stored_weights import FLOATS, INDEX, WEIGHTS

_NAMES = {dtype: name for name, dtype in FLOATS.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor to write: what the header says of it, and how to get its value when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize


def write_file(path: Path, entries: Iterable[Entry]) -> None:
    """Write one safetensors file and flush it to the disk; wide dtypes first, so that each tensor is aligned."""
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in ordered:
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.size],
        }
        offset += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            file.write(_bytes(entry))
        file.flush()
        os.fsync(file.fileno())


def write_sharded(folder: Path, entries: list[Entry], max_bytes: int) -> None:
    """Write model.safetensors, or shards of at most `max_bytes` (one larger tensor fills its own) and their index."""
    shards = _shards(entries, max_bytes)
    if len(shards) == 1:
        write_file(folder / WEIGHTS, entries)
        return
    home: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard)
        home.update({entry.name: name for entry in shard})
    write_json(folder / INDEX, {"metadata": {"total_size": sum(e.size for e in entries)}, "weight_map": home})


def write_json(path: Path, value: object) -> None:
    """Write a JSON file and flush it to the disk."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    flush(path)


def flush(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _shards(entries: list[Entry], max_bytes: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.size > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards


def _bytes(entry: Entry) -> memoryview:
    tensor = entry.load().detach().cpu().contiguous()
    if tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
        raise ValueError(f"{entry.name} is {tensor.dtype} {tuple(tensor.shape)}, announced {entry.dtype} {entry.shape}")
    return tensor.reshape(-1).view(torch.uint8).numpy().data
