"""The base of every configuration section: strict, immutable, and told from YAML.

A section is a pydantic model that refuses unknown keys. It knows nothing about files or the command line; load.py
does that, and turns pydantic's complaints into one sentence.
"""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One component's part of the configuration; components take their own section, never the whole tree."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
