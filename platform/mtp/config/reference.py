"""Writes the table of every configuration key from the schema itself, so that the page cannot lag behind it."""

import typing
from typing import Any

from pydantic.fields import FieldInfo

from mtp.config.base import Section
from mtp.config.root import Config


def reference() -> str:
    """Markdown: one table a section, with each key's type, default and meaning."""
    parts = []
    for name, field in Config.model_fields.items():
        section = typing.cast(type[Section], field.annotation)
        summary = " ".join((section.__doc__ or "").split())
        parts.append(f"## `{name}`\n\n{summary}\n\n| key | type | default | meaning |\n|---|---|---|---|")
        parts.extend(_rows(section, prefix=""))
        parts.append("")
    return "\n".join(parts)


def _rows(section: type[Section], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, field in section.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, Section):
            rows += _rows(nested, prefix=f"{prefix}{name}.")
            continue
        default = "" if field.is_required() else _plain(field.get_default(call_default_factory=True))
        cells = (f"`{prefix}{name}`", _type_name(field), f"`{default}`", " ".join((field.description or "").split()))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _type_name(field: FieldInfo) -> str:
    """`int`, `'a' | 'b'`, `float | null`, ... as a person would write it in YAML."""
    return _name(field.annotation)


def _name(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _name(arguments[0])
    if origin is typing.Literal:
        return " or ".join(str(value) for value in arguments)
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and issubclass(kind, Section):
        return " ".join((kind.__doc__ or kind.__name__).split("(")[0].split("\n")[0].split()).rstrip(".,:")
    if origin is tuple:
        return "list of " + _name(arguments[0])
    if arguments:
        return " or ".join(dict.fromkeys(_name(argument) for argument in arguments))
    return typing.cast(str, kind.__name__)


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
