"""Whole documents out of packed rows, and the windows in which a model reads them.

A document longer than a window is read in windows that overlap, and a token counts in one of them only: the first that
holds it. So every token is predicted from at least `window - stride` tokens before it, or from all that there are.
Knows rows of ids; knows nothing of models.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp.data import PreparedDataset, read_rows

PADDING = -1


@dataclass(frozen=True)
class Windows:
    """Rows to run through a model."""

    tokens: Tensor
    """(R, W) int64."""
    document: Tensor
    """(R, W) int32: ordinal in the row of the document's window, -1 = padding."""
    countable: Tensor
    """(R, W) bool: tokens that count as targets; the others are context or padding."""


def documents_of_rows(dataset: PreparedDataset, start: int, stop: int, limit: int) -> list[Tensor]:
    """The documents that begin in rows start .. stop - 1, whole, as 1-D int64 tensors; none reads past row `limit`."""
    first = max(start - 1, 0)  # the row before tells whether the first document of row `start` began earlier
    tokens, document = read_rows(dataset, first, stop - first)
    eos_id, reached = dataset.manifest.eos_id, stop
    while reached < limit and _goes_on(tokens[-1], document[-1], eos_id):
        more, owners = read_rows(dataset, reached, 1)
        tokens, document = torch.cat((tokens, more)), torch.cat((document, owners))
        reached += 1
    begun = whole_documents(tokens, document, eos_id)
    return [ids for row, ids in begun if start <= row + first < stop]


def whole_documents(tokens: Tensor, document: Tensor, eos_id: int) -> list[tuple[int, Tensor]]:
    """Every document with the row in which it begins; the first and the last may be cut by the ends of the rows.

    Args:
        tokens: (R, T) int64, rows as `mtp.data` packs them: a document goes on in the next row unless its row ends
            with `eos_id` or with padding.
        document: (R, T) int32, -1 = padding.
        eos_id: what ends a document.
    """
    found: list[tuple[int, list[Tensor]]] = []
    goes_on = False
    for number, (row, ordinals) in enumerate(zip(tokens, document, strict=True)):
        real = ordinals[ordinals >= 0]
        lengths = torch.unique_consecutive(real, return_counts=True)[1].tolist()
        pieces = list(row[: len(real)].split(lengths))
        if goes_on and pieces:
            found[-1][1].append(pieces.pop(0))
        found += [(number, [piece]) for piece in pieces]
        goes_on = _goes_on(row, ordinals, eos_id)
    return [(number, torch.cat(pieces)) for number, pieces in found]


def _goes_on(row: Tensor, ordinals: Tensor, eos_id: int) -> bool:
    return int(ordinals[-1]) != PADDING and int(row[-1]) != eos_id


def windows_of(documents: Iterable[Tensor], window: int, stride: int) -> Windows:
    """Windows of the documents, several to a row where they fit.

    Example:
        A document of 10 tokens with window 6 and stride 4: tokens 0-5, all of which count, and 4-9, of which 6-9 do.
    """
    rows: list[list[tuple[Tensor, int]]] = []
    room = 0
    for piece, counted in _pieces(documents, window, stride):
        if len(piece) > room:
            rows.append([])
            room = window
        rows[-1].append((piece, counted))
        room -= len(piece)
    tokens = torch.zeros(len(rows), window, dtype=torch.int64)
    document = torch.full((len(rows), window), PADDING, dtype=torch.int32)
    countable = torch.zeros(len(rows), window, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = 0
        for ordinal, (piece, counted) in enumerate(row):
            end = place + len(piece)
            tokens[number, place:end], document[number, place:end] = piece, ordinal
            countable[number, end - counted : end] = True
            place = end
    return Windows(tokens, document, countable)


def _pieces(documents: Iterable[Tensor], window: int, stride: int) -> Iterator[tuple[Tensor, int]]:
    """(ids of a window, how many of its last ones count)."""
    for ids in documents:
        counted = 0
        start = 0
        while counted < len(ids):
            end = min(start + window, len(ids))
            yield ids[start:end], end - counted
            counted = end
            start += stride
