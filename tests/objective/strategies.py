"""Random batches for the objective's tests: documents, padding and masks in every arrangement."""

import torch
from hypothesis import strategies as st

VOCABULARY = 7


@st.composite
def batches(draw, max_rows: int = 3, max_length: int = 9):
    """(tokens (B, T), document (B, T), target_mask (B, T))."""
    rows, length = draw(st.integers(1, max_rows)), draw(st.integers(1, max_length))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tokens = torch.randint(0, VOCABULARY, (rows, length), generator=generator)
    document = torch.zeros(rows, length, dtype=torch.int32)
    for row in range(rows):
        breaks = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        document[row] = torch.tensor(breaks, dtype=torch.int32).cumsum(0)
        padding = draw(st.integers(0, length))
        if padding and draw(st.booleans()):
            document[row, length - padding :] = -1
    keep_all = draw(st.booleans())
    mask = torch.rand(rows, length, generator=generator) < (2.0 if keep_all else 0.7)
    return tokens, document, mask
