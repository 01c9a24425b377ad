import numpy as np
import pytest
import torch

from mtp.errors import MTPError
from mtp.train.continuations import PROMPT, TOGETHER, with_continuations
from tests.decode.reference import greedy
from tests.decode.tiny import tiny_model

LENGTH, SIZE = 16, 3


def batches(count, vocab=48):
    dice = np.random.default_rng(0)
    for _ in range(count):
        yield dice.integers(vocab, size=(SIZE, LENGTH)), np.repeat([[0, 1]], SIZE, 0).repeat(LENGTH // 2, 1)


def rows_of(found):
    tokens, document = zip(*found, strict=True)
    return np.concatenate(tokens), np.concatenate(document)


def test_a_share_of_the_rows_is_what_standard_decoding_makes_of_their_beginnings():
    model, count = tiny_model("sequential"), 2 * TOGETHER // SIZE
    before, documents = rows_of(batches(count))
    after, document = rows_of(with_continuations(batches(count), model, 0.4))
    assert [len(tokens) for tokens, _ in with_continuations(batches(4), model, 0.4)] == [SIZE] * 4
    changed = np.flatnonzero((before != after).any(axis=1))
    assert abs(len(changed) - 0.4 * len(before)) <= 1
    assert all(abs(len(changed[changed < n]) - 0.4 * n) <= 1 for n in range(len(before)))
    assert (document[changed] == 0).all()
    kept = np.setdiff1d(np.arange(len(before)), changed)
    assert (document[kept] == documents[kept]).all()
    prompt = LENGTH // PROMPT
    for row in changed[:6]:
        assert after[row].tolist() == [
            *before[row, :prompt].tolist(),
            *greedy(model, before[row, :prompt].tolist(), LENGTH - prompt),
        ]


def test_without_a_share_or_where_a_beginning_is_padded_rows_stay_as_they_are():
    model = tiny_model("sequential")
    before, _ = rows_of(batches(3))
    assert (rows_of(with_continuations(batches(3), model, 0.0))[0] == before).all()
    padded = ((tokens, np.full_like(document, -1)) for tokens, document in batches(3))
    after, document = rows_of(with_continuations(padded, model, 1.0))
    assert (after == before).all() and (document == -1).all()
    assert list(with_continuations(batches(0), model, 1.0)) == []


def test_the_shortest_rows_keep_their_first_token():
    model, row = tiny_model("sequential"), np.array([[5, 6, 7]])
    ((tokens, _),) = with_continuations(iter([(row.copy(), np.zeros_like(row))]), model, 1.0)
    assert tokens[0].tolist() == [5, *greedy(model, [5], 2)]


def test_a_model_that_gives_no_numbers_is_an_error():
    model = tiny_model("sequential")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(MTPError, match="cannot go on with a row"):
        list(with_continuations(batches(1), model, 1.0))
