"""Packed rows as parquet bytes, and back, never silently wrong.

A shard has two columns, `tokens` and `document`, both fixed-size lists of seq_len. Knows the file format and its
checks; knows nothing about the order of rows or where they came from.
"""

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtp.data.manifest import ShardRecord
from mtp.data.storage import Location
from mtp.errors import MTPError

GROUP_TOKENS = 65_536
"""Tokens in a row group: small enough that reading a few rows of one wastes little, large enough to read fast."""

Array = npt.NDArray[np.generic]


def rows_per_group(seq_len: int) -> int:
    """Rows in a row group for rows of `seq_len` tokens."""
    return max(1, GROUP_TOKENS // seq_len)


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smallest unsigned type that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def encode_shard(tokens: Array, document: Array) -> pa.Buffer:
    """The parquet file of rows; equal rows give equal bytes.

    Args:
        tokens: (n, seq_len) uint16 or uint32.
        document: (n, seq_len) int32, ordinal of each token's document in its row, -1 = padding.
    """
    seq_len = tokens.shape[1]
    table = pa.table({"tokens": _fixed_lists(tokens), "document": _fixed_lists(document)})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=rows_per_group(seq_len),
        compression="zstd",
        use_dictionary=["document.list.element"],
        write_statistics=False,
        write_page_checksum=True,
        store_schema=True,
    )
    return sink.getvalue()


class BadShardError(MTPError):
    """A shard is missing, or is not what the manifest describes: reading it again will not help."""


class Shard:
    """An open shard whose content was checked against the manifest's sha256 when it was opened."""

    def __init__(self, location: Location, record: ShardRecord, seq_len: int) -> None:
        """Open and check.

        Raises:
            BadShardError: the file is absent, or is not the file that the manifest describes.
            MTPError: its place cannot be accessed.
        """
        self.location = location
        self._seq_len = seq_len
        _check_content(location, record)
        self._file = pq.ParquetFile(location.open(), page_checksum_verification=True)

    def read_groups(self, groups: Sequence[int]) -> tuple[Array, Array]:
        """Row groups in the given order: tokens (n, seq_len) of the stored type, document (n, seq_len) int32.

        Raises:
            BadShardError: a page's checksum differs; the message names the row groups.
        """
        try:
            table = self._file.read_row_groups(list(groups), columns=["tokens", "document"], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            where = f"row group {groups[0]}" if len(groups) == 1 else f"row groups {list(groups)}"
            raise BadShardError(
                f"{self.location} is corrupt in {where}: {' '.join(str(error).split())}; restore or prepare it again"
            ) from None
        return self._matrix(table["tokens"]), self._matrix(table["document"])

    def _matrix(self, column: pa.ChunkedArray) -> Array:
        parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return flat.reshape(-1, self._seq_len)


def open_shard(location: Location, record: ShardRecord, seq_len: int) -> Shard:
    """A `Shard`, opened and checked at its first use in this process; a bad one is not looked at again."""
    found = _opened(location, record, seq_len)
    if isinstance(found, BadShardError):
        raise found
    return found


@lru_cache(maxsize=256)
def _opened(location: Location, record: ShardRecord, seq_len: int) -> Shard | BadShardError:
    try:
        return Shard(location, record, seq_len)
    except BadShardError as error:
        return error.with_traceback(None)


def sha256(content: "bytes | pa.Buffer") -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


def _check_content(location: Location, record: ShardRecord) -> None:
    if not location.exists():
        raise BadShardError(f"shard {location} is missing; restore it or prepare the data set again")
    with location.open() as file:
        digest = hashlib.file_digest(io.BufferedReader(file, 1 << 20), "sha256").hexdigest()
    if digest != record.sha256:
        raise BadShardError(
            f"shard {location} is corrupt: its sha256 is {digest[:12]}..., the manifest says "
            f"{record.sha256[:12]}...; restore it or prepare the data set again"
        )


def _fixed_lists(matrix: Array) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])
