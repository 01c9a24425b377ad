"""Reads and writes safetensors, checking every tensor against what the model expects.

Never unpickles. Errors name the file and the tensor. Knows nothing of what the tensors are for.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mtp.errors import MTPError

FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
"""safetensors' names of the dtypes that weights may have."""


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file and flush it to the disk (the caller renames it into place)."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})
    flush(path)


def flush(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header alone.

    Raises:
        MTPError: the file is missing or is no safetensors file, or a tensor has a dtype that weights cannot have.
    """
    shapes = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            part = file.get_slice(name)
            if part.get_dtype() not in FLOATS:
                raise MTPError(
                    f"{path}: tensor {name} has dtype {part.get_dtype()}; weights are one of {', '.join(FLOATS)}"
                )
            shapes[name] = tuple(part.get_shape())
    return shapes


def check_names(path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless `found` has exactly the tensors and shapes of `wanted`."""
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise MTPError(f"{path}: tensor {missing[0]} is missing{_more(missing)}")
    extra = sorted(found.keys() - wanted.keys())
    if extra:
        raise MTPError(f"{path}: tensor {extra[0]} does not belong to this model{_more(extra)}; see its config.json")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise MTPError(f"{path}: tensor {name} has shape {found[name]}; config.json makes it {shape}")


def read_tensors(path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each tensor, one at a time, on the CPU; refuses NaN and infinity."""
    with _opened(path) as file:
        for name in names:
            tensor = file.get_tensor(name)
            if not bool(torch.isfinite(tensor).all()):
                raise MTPError(f"{path}: tensor {name} holds NaN or infinity; the weights are damaged")
            yield name, tensor


def _opened(path: Path) -> safe_open:
    if not path.is_file():
        raise MTPError(f"there is no {path}; a model folder holds config.json and model.safetensors")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise MTPError(f"{path} is not a whole safetensors file: {error}") from None


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
