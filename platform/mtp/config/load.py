"""From a YAML file and `key.sub=value` overrides to a validated `Config`.

Knows files and pydantic's error format; knows nothing about what the sections mean. Every complaint leaves as one
`UsageError` sentence with the place, the value and, for an unknown key, the nearest valid name.
"""

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mtp.config.base import Section
from mtp.config.root import Config
from mtp.errors import UsageError


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read `path`, apply overrides like `train.optimizer.lr=1e-3`, and validate.

    Raises:
        UsageError: the file is missing, is no YAML mapping, or a key or value is not valid.
    """
    return build_config(read_yaml(path), overrides, where=str(path))


def build_config(tree: Mapping[str, Any], overrides: Iterable[str] = (), where: str = "configuration") -> Config:
    """Validate a tree of plain values with overrides applied; `where` names it in errors."""
    merged: dict[str, Any] = dict(tree)
    for override in overrides:
        merged = _with_override(merged, override)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise UsageError(f"{where}: {_sentence(error)}") from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"cannot read the configuration {path}: {reason}; give --config an existing file") from None
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds a {type(tree).__name__}, not sections such as `train:` and `model:`")
    return tree


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later duplicate key win silently; in a configuration that hides a typo."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-3 for a string; people write learning rates that way.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _with_override(tree: Mapping[str, Any], override: str) -> dict[str, Any]:
    """A copy of `tree` with `a.b=value` applied; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UsageError(f"override {override!r} is not of the form key.sub=value")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError:
        raise UsageError(f"override {override!r}: the value is not valid YAML") from None
    result: dict[str, Any] = dict(tree)
    branch = result
    *parents, leaf = key.split(".")
    for parent in parents:
        below = branch.get(parent)
        branch[parent] = dict(below) if isinstance(below, dict) else {}
        branch = branch[parent]
    branch[leaf] = value
    return result


def _sentence(error: ValidationError) -> str:
    """Pydantic's first complaint (with a count of the others) as one sentence."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the configuration"
    if first["type"] == "extra_forbidden":
        message = f"unknown key {place}{_nearest(first['loc'])}"
    else:
        reason = first["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(first["input"], Mapping | BaseModel) else f" (got {first['input']!r})"
        message = f"{place}: {reason}{shown}"
    others = error.error_count() - 1
    return message + (f" (and {others} more)" if others else "")


def _nearest(location: tuple[int | str, ...]) -> str:
    """`; did you mean x?`, or the valid names where none is near."""
    section: type[Section] | None = Config
    for part in location[:-1]:
        section = _section_at(section, str(part)) if section else None
    if section is None:
        return ""
    names = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; valid names here: {', '.join(names)}"


def _section_at(section: type[Section], name: str) -> type[Section] | None:
    """The section class held by field `name`, looking through optional types."""
    field = section.model_fields.get(name)
    if field is None:
        return None
    for candidate in (field.annotation, *typing.get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None
