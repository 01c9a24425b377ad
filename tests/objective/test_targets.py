import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtp.errors import UsageError
from mtp.objective import build_targets
from tests.objective.reference import target_at
from tests.objective.strategies import batches

PAD = None


def table(tokens, document=None, n_future=4, **options):
    """[[target or PAD for horizon 1..n] for each slot] of one row."""
    tokens = torch.tensor([tokens])
    document = torch.zeros_like(tokens) if document is None else torch.tensor([document])
    targets = build_targets(tokens, document, n_future, **options)
    return [
        [int(i) if w > 0 else PAD for i, w in zip(ids, weights, strict=True)]
        for ids, weights in zip(targets.ids[:, 0].T, targets.weights[:, 0].T, strict=True)
    ]


def test_the_target_table_of_the_seed_text():
    assert table([1, 2, 3, 4, 5, 6, 7, 8]) == [
        [2, 3, 4, 5],
        [3, 4, 5, 6],
        [4, 5, 6, 7],
        [5, 6, 7, 8],
        [6, 7, 8, PAD],
        [7, 8, PAD, PAD],
        [8, PAD, PAD, PAD],
        [PAD, PAD, PAD, PAD],
    ]


def test_no_target_lies_in_another_document():
    assert table([1, 2, 3, 4, 5], document=[0, 0, 0, 1, 1], n_future=2) == [
        [2, 3],
        [3, PAD],
        [PAD, PAD],
        [5, PAD],
        [PAD, PAD],
    ]


def test_padding_predicts_nothing_and_is_no_target():
    assert table([1, 2, 0, 0], document=[0, 0, -1, -1], n_future=2) == [[2, PAD], [PAD, PAD], [PAD, PAD], [PAD, PAD]]


def test_a_masked_target_still_predicts_the_others():
    mask = torch.tensor([[True, False, True, True]])
    assert table([1, 2, 3, 4], n_future=2, target_mask=mask) == [[PAD, 3], [3, 4], [4, PAD], [PAD, PAD]]


def test_weights_are_the_importance_of_the_target():
    targets = build_targets(
        torch.tensor([[0, 1, 2]]), torch.zeros(1, 3, dtype=torch.int32), 2, token_weights=torch.tensor([9.0, 0.5, 2.0])
    )
    assert targets.weights.tolist() == [[[0.5, 2.0, 0.0]], [[2.0, 0.0, 0.0]]]


@given(batches(), st.data())
@settings(max_examples=60, deadline=None)
def test_targets_equal_the_double_loop(batch, data):
    tokens, document, mask = batch
    n = data.draw(st.integers(1, tokens.shape[1]))
    targets = build_targets(tokens, document, n, mask)
    for k in range(1, n + 1):
        for row in range(tokens.shape[0]):
            for slot in range(tokens.shape[1]):
                expected = target_at(tokens.tolist(), document.tolist(), mask.tolist(), row, slot, k)
                assert bool(targets.valid[k - 1, row, slot]) == (expected is not None)
                assert int(targets.ids[k - 1, row, slot]) == (0 if expected is None else expected)


@pytest.mark.parametrize(
    ("tokens", "document", "n_future", "says"),
    [
        (torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0), 1, "at least one token"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4), 1, "(2, 4)"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), 4, "n_future is 4"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), 0, "n_future is 0"),
    ],
)
def test_rows_that_cannot_be_are_refused_in_one_sentence(tokens, document, n_future, says):
    with pytest.raises(UsageError, match=says.replace("(", r"\(").replace(")", r"\)")):
        build_targets(tokens, document, n_future)
