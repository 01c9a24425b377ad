"""Where text comes from, how it becomes packed rows, and which prepared data sets training mixes."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mtp.config.base import Section


class MixtureSource(Section):
    """A prepared data set and its share."""

    path: str
    """Folder or pyarrow URL of the prepared data set; its `train` split is read."""
    weight: PositiveFloat = 1.0
    """Share of the rows, relative to the other sources' weights."""


class DataConfig(Section):
    """A corpus of raw text, and the prepared data set made of it."""

    corpus: str | None = None
    """Text, JSONL or parquet: a folder, a file, or a URL; unset: the running interpreter's standard library."""
    text_column: str = "text"
    """Column or key that holds the text in parquet and JSONL files."""
    domain_column: str | None = None
    """Column or key that names a document's domain in parquet and JSONL files; unset: the folder at the top of the
    file's path. Recorded for held-out documents, so that evaluate.largest_domains can measure domains apart."""
    path: str = "data"
    """Folder or pyarrow URL of the prepared data set; holds `train` and `validation`."""
    mixture: tuple[MixtureSource, ...] = ()
    """Prepared data sets that training mixes by weight instead of reading `path`/train; `path` still gives the
    held-out rows."""
    overwrite: bool = False
    """Replace a prepared data set of other text or settings at `path`, instead of refusing."""
    seq_len: PositiveInt = 256
    """Tokens in a row."""
    vocab_size: int = Field(default=4096, ge=257)
    """Entries of the byte-level BPE, the end-of-text token included."""
    tokenizer: str | None = None
    """Prepared data set, folder or tokenizer.json whose tokenizer is used; unset: one is trained on the corpus."""
    held_out: float = Field(default=0.05, gt=0, lt=1)
    """Share of the files kept for validation, chosen by a hash of their relative path."""
    rows_per_shard: PositiveInt = 4096
    """Rows in a shard, about and at most: text is cut by bytes, at four a token; small corpora get smaller shards."""
    seed: int = 0
    """Of the row order."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """What training does with a corrupt or missing shard: stop with its name, or leave its rows out and count it."""
    max_bad_shards: NonNegativeInt = 4
    """Shards that `skip` leaves out before it stops too."""

    @model_validator(mode="after")
    def _sources_differ(self) -> Self:
        paths = [source.path for source in self.mixture]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice:
            raise ValueError(f"mixture names {twice} twice; give it once, with the sum of the weights")
        return self
