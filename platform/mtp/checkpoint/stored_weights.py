"""Reads the safetensors files of a folder, naming file and tensor in every complaint. Never unpickles anything.

Knows the format and the index of sharded folders; knows nothing of what the tensors are for.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtp.errors import MTPError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""safetensors' names of the dtypes that weights may have."""

FP32_BUFFER = "e_score_correction_bias"
"""Last name of the tensors that stay fp32 in a model of any dtype."""

_REFERENCE = "model.embed_tokens.weight"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class StoredWeights:
    """All tensors of some safetensors files: names, shapes and dtypes from the headers, values on demand."""

    def __init__(self, files: list[Path]) -> None:
        self._home: dict[str, Path] = {}
        self._open = {path: _opened(path) for path in files}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for path, file in self._open.items():
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                self._add(name, path, file)

    @property
    def dtype(self) -> torch.dtype:
        """Of the model: of all weights but the gates' biases."""
        return self.dtypes[_REFERENCE]

    def where(self, name: str) -> Path:
        """The file that holds tensor `name`."""
        return self._home[name]

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> Tensor:
        """The tensor's value on the CPU, or that of a part of it; reads no more than the part.

        Raises:
            MTPError: it holds NaN or infinity.
        """
        path = self._home[name]
        file = self._open[path]
        tensor = file.get_slice(name)[index] if index else file.get_tensor(name)
        if not bool(torch.isfinite(tensor).all()):
            raise MTPError(f"{path}: tensor {name} holds NaN or infinity; the weights are damaged")
        return tensor

    def check(self, wanted: Mapping[str, tuple[int, ...]], folder: Path) -> None:
        """Raise MTPError unless the tensors are exactly those `wanted`, in shape and in one dtype."""
        missing = sorted(wanted.keys() - self.shapes.keys())
        if missing:
            raise MTPError(f"{folder}: tensor {missing[0]} is missing{_more(missing)}; config.json asks for it")
        extra = sorted(self.shapes.keys() - wanted.keys())
        if extra:
            raise MTPError(
                f"{self.where(extra[0])}: tensor {extra[0]} does not belong to the model of config.json{_more(extra)}"
            )
        for name, shape in wanted.items():
            if self.shapes[name] != shape:
                raise MTPError(
                    f"{self.where(name)}: tensor {name} has shape {self.shapes[name]}; config.json makes it {shape}"
                )
            if self.dtypes[name] != self.dtype and not name.endswith(FP32_BUFFER):
                raise MTPError(
                    f"{self.where(name)}: tensor {name} is {self.dtypes[name]}, but {_REFERENCE} {self.dtype}; "
                    f"a model has one dtype"
                )

    def _add(self, name: str, path: Path, file: safe_open) -> None:
        if name in self._home:
            raise MTPError(f"tensor {name} stands in both {self._home[name]} and {path}")
        part = file.get_slice(name)
        if part.get_dtype() not in FLOATS:
            raise MTPError(f"{path}: tensor {name} has dtype {part.get_dtype()}; weights are {' or '.join(FLOATS)}")
        self._home[name] = path
        self.shapes[name] = tuple(part.get_shape())
        self.dtypes[name] = FLOATS[part.get_dtype()]


def open_weights(folder: Path) -> StoredWeights:
    """The weights of `folder`: its model.safetensors, or the shards that its index names.

    Raises:
        MTPError: there are none, one is damaged, or the folder holds pickled weights.
    """
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
    if pickled:
        raise MTPError(f"{folder} holds {pickled[0]}: pickled weights are never loaded; convert them to safetensors")
    if (folder / INDEX).is_file():
        return StoredWeights(_shards(folder))
    return StoredWeights([folder / WEIGHTS])


def _shards(folder: Path) -> list[Path]:
    path = folder / INDEX
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise MTPError(f"{path} is no index of safetensors files (an object with a weight_map)") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise MTPError(f"{path} names the file {name!r}, which is not in its own folder")
    return [folder / name for name in sorted(names)]


def _opened(path: Path) -> safe_open:
    if not path.is_file():
        raise MTPError(f"there is no {path}; a model folder holds config.json and model.safetensors")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise MTPError(f"{path} is not a whole safetensors file: {error}") from None


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
