"""A prepared data set on disk: opening it, checking it, reading rows of it by number.

Plain pyarrow and numpy, in one process; the stream reads through it too. Knows nothing about training order.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mtp.data.manifest import FileRecord, Manifest, read_manifest
from mtp.data.packing import PADDING
from mtp.data.shards import BadShardError, open_shard, sha256
from mtp.data.storage import Location
from mtp.errors import MTPError, UsageError
from mtp.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.generic]
Ints = npt.NDArray[np.int64]
OnBadShard = Callable[[BadShardError, Ints], None]
"""Called with what is wrong with a shard, and where in the answer its rows would be."""


@dataclass(frozen=True)
class PreparedDataset:
    """One split: `location` holds the files that `manifest` names."""

    location: Location
    manifest: Manifest

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids."""
        return Tokenizer.from_json(self.checked(self.manifest.tokenizer).decode(), str(self.location))

    def token_counts(self) -> Ints:
        """How often each id occurs; (vocab_size,) int64."""
        return np.asarray(json.loads(self.checked(self.manifest.token_counts)), dtype=np.int64)

    def verify(self) -> None:
        """Read every byte and compare with the manifest.

        Raises:
            MTPError: naming the first file that is missing or differs.
        """
        self.checked(self.manifest.tokenizer)
        self.checked(self.manifest.token_counts)
        if self.manifest.domains:
            self.checked(self.manifest.domains)
        for shard in self.manifest.shards:
            open_shard(self.location / shard.name, shard, self.manifest.seq_len)

    def check_sizes(self) -> None:
        """A quick look that every shard is there and as long as the manifest says.

        Raises:
            MTPError: naming the first one that is not.
        """
        for shard in self.manifest.shards:
            place = self.location / shard.name
            if not place.exists():
                raise MTPError(f"shard {place} is missing; restore it or prepare the data set again")
            if place.info().size != shard.bytes:
                raise MTPError(
                    f"shard {place} has {place.info().size} bytes and the manifest says {shard.bytes}; "
                    f"restore it or prepare the data set again"
                )

    @cached_property
    def shard_starts(self) -> Ints:
        """Row id of each shard's first row, and the number of rows; (shards + 1,)."""
        return np.concatenate([[0], np.cumsum([shard.rows for shard in self.manifest.shards])])

    def shard_of(self, row_id: int) -> str:
        """The URL of the shard that holds a row."""
        number = int(np.searchsorted(self.shard_starts, row_id, side="right")) - 1
        return str(self.location / self.manifest.shards[number].name)

    def take(self, row_ids: Sequence[int] | Ints, on_bad_shard: OnBadShard | None = None) -> tuple[Array, Array]:
        """The rows with these ids, in this order; each row group is read once.

        Rows of a bad shard become padding when `on_bad_shard` takes the blame.

        Returns:
            tokens (n, seq_len) of the stored type, document (n, seq_len) int32.

        Raises:
            BadShardError: a shard is missing or corrupt and nobody takes the blame; the message names it.
        """
        wanted = np.asarray(row_ids, dtype=np.int64)
        tokens = np.empty((len(wanted), self.manifest.seq_len), dtype=self.manifest.dtype)
        document = np.empty((len(wanted), self.manifest.seq_len), dtype=np.int32)
        shards = np.searchsorted(self.shard_starts, wanted, side="right") - 1
        for number in np.unique(shards):
            places = np.flatnonzero(shards == number)
            rows = wanted[places] - self.shard_starts[number]
            try:
                tokens[places], document[places] = self._take_from_shard(int(number), rows)
            except BadShardError as error:
                if on_bad_shard is None:
                    raise
                tokens[places], document[places] = self.manifest.eos_id, PADDING
                on_bad_shard(error, places)
        return tokens, document

    def _take_from_shard(self, number: int, rows: Ints) -> tuple[Array, Array]:
        record = self.manifest.shards[number]
        shard = open_shard(self.location / record.name, record, self.manifest.seq_len)
        groups, inside = np.divmod(rows, self.manifest.group_rows)
        needed, which = np.unique(groups, return_inverse=True)
        tokens, document = shard.read_groups(needed.tolist())
        # Only the last row group of a shard is short, and `needed` is sorted: all before it are full.
        places = which * self.manifest.group_rows + inside
        return tokens[places], document[places]

    def checked(self, record: FileRecord) -> bytes:
        """The content of a file of the manifest.

        Raises:
            MTPError: it is not what the manifest says.
        """
        content = (self.location / record.name).read()
        if sha256(content) != record.sha256:
            raise MTPError(
                f"{self.location / record.name} is corrupt: its sha256 differs from the manifest's; "
                f"restore it or prepare the data set again"
            )
        return content


def open_dataset(path: str | Path | Location) -> PreparedDataset:
    """The data set in the folder or URL `path` (such as `data/train`).

    Raises:
        MTPError: it is not there, not finished, of a foreign format version, or its manifest is damaged.
    """
    location = Location.of(path)
    return PreparedDataset(location, read_manifest(location))


def read_rows(
    path: str | Path | Location | PreparedDataset, start: int = 0, limit: int | None = None
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Rows start .. start + limit in file order (all from `start` on without a limit).

    Returns:
        tokens (n, seq_len) int64; document (n, seq_len) int32, -1 = padding.

    Raises:
        UsageError: `start` is not a row of the data set.
        MTPError: the data set or a shard of it is missing or corrupt.
    """
    import torch

    dataset = path if isinstance(path, PreparedDataset) else open_dataset(path)
    rows = dataset.manifest.rows
    if not 0 <= start < rows:
        raise UsageError(f"row {start} is not in {dataset.location}, which has rows 0 to {rows - 1}")
    stop = rows if limit is None else min(rows, start + limit)
    tokens, document = dataset.take(np.arange(start, stop))
    return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(document)
