"""Where text comes from, and how it becomes packed rows."""

from pydantic import Field, PositiveInt

from mtp.config.base import Section


class DataConfig(Section):
    """A corpus of raw text, and the prepared data set made of it."""

    corpus: str | None = None
    """Text, JSONL or parquet: a folder, a file, or a URL; unset: the running interpreter's standard library."""
    text_column: str = "text"
    """Column or key that holds the text in parquet and JSONL files."""
    path: str = "data"
    """Folder or pyarrow URL of the prepared data set; holds `train` and `validation`."""
    overwrite: bool = False
    """Replace a prepared data set of other text or settings at `path`, instead of refusing."""
    seq_len: PositiveInt = 256
    """Tokens in a row."""
    vocab_size: int = Field(default=4096, ge=257)
    """Entries of the byte-level BPE, the end-of-text token included."""
    held_out: float = Field(default=0.05, gt=0, lt=1)
    """Share of the files kept for validation, chosen by a hash of their relative path."""
    rows_per_shard: PositiveInt = 4096
    """Rows in a shard, about and at most: text is cut by bytes, at four a token; small corpora get smaller shards."""
    seed: int = 0
    """Of the row order."""
