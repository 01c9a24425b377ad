"""Finds the YAML files that ship with the project: beside a clone, or where the wheel put them."""

import sys
from pathlib import Path

from mtp.errors import UsageError

_CLONE = Path(__file__).resolve().parents[3] / "configs"
_WHEEL = Path(sys.prefix) / "share" / "mtp-platform" / "configs"


def preset_path(name: str) -> Path:
    """The file of the preset `name` (such as `quickstart`).

    Raises:
        UsageError: no preset has that name.
    """
    folder = _CLONE if _CLONE.is_dir() else _WHEEL
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise UsageError(f"no preset {name!r} in {folder}; there are: {known}")
    return path
