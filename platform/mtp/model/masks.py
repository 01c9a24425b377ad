"""Which token of a packed row may attend to which: the past of its own document.

Padding (document -1) forms a document of its own, so that no query is left without a key.
"""

from torch import Tensor


def document_mask(document: Tensor) -> Tensor:
    """True where query i attends to key j: j <= i and the same document.

    document [[0, 0, 1]] gives rows [1,0,0], [1,1,0], [0,0,1].

    Args:
        document: (B, T) int, ordinals of the documents in the row; -1 is padding.

    Returns:
        (B, 1, T, T) bool.
    """
    same = document.unsqueeze(-1) == document.unsqueeze(-2)
    return same.tril_().unsqueeze(1)
