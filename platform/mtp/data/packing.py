"""Documents laid end to end and cut into rows of seq_len tokens.

Knows arrays of ids; knows nothing about text, files or vocabularies.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mtp.data.shards import token_dtype

PADDING = -1

Ids = npt.NDArray[np.int32]


def pack_documents(
    documents: Sequence[Sequence[int] | Ids], seq_len: int, eos_id: int, vocab_size: int
) -> tuple[npt.NDArray[np.generic], Ids]:
    """Rows of the documents in order, each ended by `eos_id`; only the last row is padded.

    A document that crosses a row's end goes on in the next row as that row's document 0.

    Args:
        documents: ids of each document, none of them the end of text.

    Returns:
        tokens (n, seq_len) uint16 or uint32, padded with eos_id; document (n, seq_len) int32: ordinal of the token's
        document in its row, from 0, PADDING (-1) where the row is padded.

    Example:
        [[1, 2], [3, 4, 5]] with seq_len 4 and eos 0 gives [[1, 2, 0, 3], [4, 5, 0, 0]] and
        [[0, 0, 0, 1], [0, 0, 0, -1]].
    """
    lengths = np.fromiter((len(document) + 1 for document in documents), dtype=np.int64, count=len(documents))
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    rows = -(-total // seq_len)
    flat = np.full(rows * seq_len, eos_id, dtype=token_dtype(vocab_size))
    for document, end, length in zip(documents, ends, lengths, strict=True):
        flat[end - length : end - 1] = document
    owners = np.full(rows * seq_len, PADDING, dtype=np.int32)
    owners[:total] = np.repeat(np.arange(len(documents), dtype=np.int32), lengths)
    owner = owners.reshape(rows, seq_len)
    return flat.reshape(rows, seq_len), np.where(owner == PADDING, PADDING, owner - owner[:, :1])
