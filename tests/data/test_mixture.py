"""The mixed order: shares kept, every source without replacement, a pure function of its inputs, cut anywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp.config import DataConfig
from mtp.data import open_training_data
from mtp.data.mixture import MixedOrder
from mtp.data.order import RowOrder
from mtp.errors import UsageError
from tests.data.datasets import write_dataset

sources = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.floats(0.001, 100)), min_size=2, max_size=5
)


def mixed(drawn, seed=0):
    orders = [RowOrder(sizes, f"data {number}", seed) for number, (sizes, _) in enumerate(drawn)]
    return MixedOrder(orders, [weight for _, weight in drawn], seed)


@given(sources, st.integers(0, 3), st.integers(1, 700))
def test_every_source_keeps_its_share_and_its_own_order_without_replacement(drawn, seed, length):
    chosen, rows = mixed(drawn, seed).places(0, length)
    total = sum(weight for _, weight in drawn)
    for number, (sizes, weight) in enumerate(drawn):
        mine = rows[chosen == number]
        assert abs(len(mine) - length * weight / total) <= len(drawn) + 1
        assert mine.tolist() == RowOrder(sizes, f"data {number}", seed).rows(0, len(mine)).tolist()
        for epoch in range(len(mine) // sum(sizes)):
            assert sorted(mine[epoch * sum(sizes) : (epoch + 1) * sum(sizes)]) == list(range(sum(sizes)))


@given(sources, st.data())
def test_any_cut_of_the_positions_gives_the_same_rows(drawn, data):
    order, stop = mixed(drawn), 600
    cuts = sorted(data.draw(st.lists(st.integers(0, stop), max_size=6)))
    parts = [order.places(start, end) for start, end in zip([0, *cuts], [*cuts, stop], strict=True)]
    assert np.array_equal(np.concatenate(parts, axis=1), order.places(0, stop))


@given(sources, st.integers(0, 10**9), st.integers(1, 300))
def test_positions_far_away_are_found_without_walking_there(drawn, start, length):
    order = mixed(drawn)
    chosen, rows = order.places(start, start + length)
    assert len(chosen) == len(rows) == length
    edges = order.edges(start, start + length)
    assert edges == sorted(set(edges)) and edges[0] <= start < [*edges[1:], start + length][0]


@pytest.mark.parametrize("change", ["seed", "weight", "fingerprint"])
def test_seed_weights_and_data_each_change_the_order(change):
    def places(seed=0, weight=2.0, fingerprint="b"):
        orders = [RowOrder([8] * 20, name, seed) for name in ("a", fingerprint)]
        return np.stack(MixedOrder(orders, [1.0, weight], seed).places(0, 200)).tolist()

    assert places() == places()
    assert places() != places(**{change: {"seed": 1, "weight": 3.0, "fingerprint": "c"}[change]})


def test_the_mixed_order_is_fixed_for_all_time():
    """A change here breaks every run that is to be resumed."""
    order = MixedOrder([RowOrder([3, 3], "a", 0), RowOrder([4], "b", 0)], [2.0, 1.0], seed=0)
    chosen, rows = order.places(0, 12)
    assert (chosen.tolist(), rows.tolist()) == (
        [1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0],
        [1, 0, 5, 3, 2, 3, 4, 1, 2, 0, 0, 1],
    )


def config(*paths):
    return DataConfig(mixture=[{"path": str(path), "weight": 1.0} for path in paths])


def test_sources_of_other_rows_or_tokens_are_refused_and_so_is_one_twice(tmp_path):
    write_dataset(tmp_path / "a/train", seed=0)
    write_dataset(tmp_path / "b/train", seed=1)
    write_dataset(tmp_path / "long/train", seq_len=32)
    write_dataset(tmp_path / "copy/train", seed=0)
    write_dataset(tmp_path / "other/train", seed=2, tokenizer_text="other words entirely")
    assert open_training_data(config(tmp_path / "a", tmp_path / "b")).rows == 206
    for name, reason in (("long", "of 16 tokens .* and of 32"), ("copy", "the same data set twice"),
                         ("other", "their tokenizers differ")):  # fmt: skip
        with pytest.raises(UsageError, match=reason):
            open_training_data(config(tmp_path / "a", tmp_path / name))
    with pytest.raises(ValueError, match="names x twice"):
        config("x", "x")


def test_token_counts_of_a_mixture_are_weighted_by_share(tmp_path):
    for seed, name in enumerate("ab"):
        write_dataset(tmp_path / name / "train", seed=seed)
    data = open_training_data(
        DataConfig(mixture=[{"path": str(tmp_path / "a"), "weight": 3}, {"path": str(tmp_path / "b")}])
    )
    a, b = (source.token_counts() for source in data.sources)
    np.testing.assert_allclose(data.token_counts(), 2 * (0.75 * a + 0.25 * b))
