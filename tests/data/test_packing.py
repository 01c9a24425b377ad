"""Packing: every token of every document once, in order, with the right document beside it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtp.data.packing import PADDING, pack_documents

EOS = 0
documents = st.lists(st.lists(st.integers(1, 299), max_size=30), max_size=12)


@given(documents, st.integers(1, 20))
def test_the_rows_hold_every_document_in_order_ended_by_eos(texts, seq_len):
    tokens, document = pack_documents(texts, seq_len, EOS, 300)
    kept = tokens.ravel()[document.ravel() != PADDING]
    assert kept.tolist() == [token for text in texts for token in [*text, EOS]]


@given(documents, st.integers(1, 20))
def test_only_the_end_of_the_last_row_is_padding(texts, seq_len):
    tokens, document = pack_documents(texts, seq_len, EOS, 300)
    padded = np.flatnonzero(document.ravel() == PADDING)
    assert len(padded) < seq_len
    assert padded.tolist() == list(range(tokens.size - len(padded), tokens.size))


@given(documents, st.integers(1, 20))
def test_ordinals_start_at_zero_in_every_row_and_rise_by_one_after_each_eos(texts, seq_len):
    tokens, document = pack_documents(texts, seq_len, EOS, 300)
    for row, owner in zip(tokens, document, strict=True):
        expected, ordinal = [], 0
        for token, found in zip(row, owner, strict=True):
            expected.append(PADDING if found == PADDING else ordinal)
            ordinal += token == EOS
        assert owner.tolist() == expected


def test_large_vocabularies_get_a_wider_type():
    assert pack_documents([[1]], 4, EOS, 1 << 16)[0].dtype == np.uint16
    tokens, _ = pack_documents([[70_000]], 4, EOS, 70_001)
    assert tokens.dtype == np.uint32 and tokens[0, 0] == 70_000
