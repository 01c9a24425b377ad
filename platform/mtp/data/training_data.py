"""What a training reads: one prepared data set, or several mixed by weights, behind one face.

Knows which sources fit together, and their common order; knows nothing about Ray, batches or models.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mtp.config import DataConfig
from mtp.data.mixture import MixedOrder, Order
from mtp.data.order import RowOrder
from mtp.data.prepared import Array, Ints, PreparedDataset, open_dataset
from mtp.data.shards import BadShardError
from mtp.data.storage import Location
from mtp.errors import UsageError
from mtp.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainingData:
    """Prepared data sets with their weights (one of each for a plain data set).

    A row is named by its source (place in `sources`) and its id there.
    """

    sources: tuple[PreparedDataset, ...]
    weights: tuple[float, ...]

    @property
    def seq_len(self) -> int:
        """Tokens in a row, of every source."""
        return self.sources[0].manifest.seq_len

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids of every source."""
        return self.sources[0].tokenizer

    @property
    def rows(self) -> int:
        """Rows of all sources."""
        return sum(source.manifest.rows for source in self.sources)

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights that sum to 1."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    @property
    def fingerprint(self) -> str:
        """Of a plain data set its own; of a mixture one of all sources and shares."""
        if len(self.sources) == 1:
            return self.sources[0].manifest.fingerprint
        content = [
            [source.manifest.fingerprint, share] for source, share in zip(self.sources, self.shares, strict=True)
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def profile(self) -> dict[str, int]:
        """Rows, tokens and documents of all sources."""
        manifests = [source.manifest for source in self.sources]
        return {
            "rows": sum(manifest.rows for manifest in manifests),
            "tokens": sum(manifest.tokens for manifest in manifests),
            "documents": sum(manifest.documents for manifest in manifests),
        }

    def token_counts(self) -> npt.NDArray[np.float64]:
        """How often each id occurs in as many rows of the order as all sources hold; (vocab_size,)."""
        return np.sum(
            [
                source.token_counts() * (share * self.rows / source.manifest.rows)
                for source, share in zip(self.sources, self.shares, strict=True)
            ],
            axis=0,
        )

    def order(self, seed: int) -> Order:
        """The order of the rows that `seed` gives."""
        orders = [RowOrder(source.manifest.group_sizes(), source.manifest.fingerprint, seed) for source in self.sources]
        return orders[0] if len(orders) == 1 else MixedOrder(orders, self.weights, seed)

    def take(
        self, sources: Ints, rows: Ints, on_bad_shard: Callable[[BadShardError, Ints], None] | None = None
    ) -> tuple[Array, Array]:
        """The named rows, in this order; see `PreparedDataset.take`.

        Returns:
            tokens (n, seq_len) of the stored type, document (n, seq_len) int32.
        """
        tokens = np.empty((len(rows), self.seq_len), dtype=self.sources[0].manifest.dtype)
        document = np.empty((len(rows), self.seq_len), dtype=np.int32)
        for number in np.unique(sources):
            places = np.flatnonzero(sources == number)

            def blame(error: BadShardError, inside: Ints, places: Ints = places) -> None:
                assert on_bad_shard is not None  # only passed on where it is given
                on_bad_shard(error, places[inside])

            tokens[places], document[places] = self.sources[number].take(rows[places], blame if on_bad_shard else None)
        return tokens, document

    def first_rows(self, seed: int, count: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        """The first `count` rows of the order: tokens (count, seq_len) int64, document int32; bad ones are padding."""
        import torch

        tokens, document = self.take(*self.order(seed).places(0, count), on_bad_shard=lambda error, places: None)
        return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(document)

    def shard_url(self, source: int, row: int) -> str:
        """The shard that holds a row."""
        return self.sources[source].shard_of(row)


def plain(path: str | Path | Location | PreparedDataset) -> TrainingData:
    """One prepared split, such as `data/train`."""
    return TrainingData((path if isinstance(path, PreparedDataset) else open_dataset(path),), (1.0,))


def open_training_data(config: DataConfig) -> TrainingData:
    """The training rows that the configuration names.

    Raises:
        MTPError: a source is not there, not finished or damaged.
        UsageError: the sources' tokenizers or row lengths differ.
    """
    if not config.mixture:
        return plain(f"{config.path}/train")
    sources = tuple(open_dataset(f"{source.path}/train") for source in config.mixture)
    _refuse_strangers(sources)
    return TrainingData(sources, tuple(source.weight for source in config.mixture))


def _refuse_strangers(sources: Sequence[PreparedDataset]) -> None:
    first = sources[0]
    for other in sources[1:]:
        ours, theirs = first.manifest, other.manifest
        if theirs.seq_len != ours.seq_len:
            raise UsageError(
                f"data.mixture cannot mix rows of {ours.seq_len} tokens ({first.location}) and of {theirs.seq_len} "
                f"({other.location}); prepare both with the same data.seq_len"
            )
        if theirs.tokenizer.sha256 != ours.tokenizer.sha256:
            raise UsageError(
                f"data.mixture cannot mix {first.location} and {other.location}: their tokenizers differ; prepare the "
                f"second with data.tokenizer={first.location}"
            )
        if theirs.fingerprint == ours.fingerprint:
            raise UsageError(f"data.mixture holds the same data set twice: {first.location} and {other.location}")
