"""The training order: a permutation every epoch, a pure function of its inputs, cheap to cut anywhere."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp.data.order import WINDOW_GROUPS, RowOrder, splitmix64

group_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=60)


@given(group_sizes, st.integers(0, 5), st.integers(0, 3))
def test_every_epoch_is_a_permutation_of_all_rows(sizes, seed, epoch):
    order = RowOrder(sizes, "data", seed)
    rows = order.rows(epoch * sum(sizes), (epoch + 1) * sum(sizes))
    assert sorted(rows) == list(range(sum(sizes)))


@given(group_sizes, st.data())
def test_any_cut_of_the_positions_gives_the_same_rows(sizes, data):
    order, stop = RowOrder(sizes, "data", 1), 3 * sum(sizes)
    cuts = sorted(data.draw(st.lists(st.integers(0, stop), max_size=6)))
    parts = [order.rows(start, end) for start, end in zip([0, *cuts], [*cuts, stop], strict=True)]
    assert np.array_equal(np.concatenate(parts), order.rows(0, stop))


@given(group_sizes, st.integers(0, 100), st.integers(0, 100))
def test_windows_cover_positions_without_gap_or_overlap(sizes, start, length):
    windows = list(RowOrder(sizes, "data", 1).windows(start, start + length))
    for before, after in itertools.pairwise(windows):
        assert before.stop == after.start
    if length:
        assert windows[0].start <= start < windows[0].stop
        assert windows[-1].start < start + length <= windows[-1].stop


def test_a_window_reads_a_bounded_number_of_row_groups():
    order = RowOrder([8] * 100, "data", 1)
    for window in order.windows(0, 800):
        assert len(set(order.window_rows(window) // 8)) <= WINDOW_GROUPS


@pytest.mark.parametrize("other", [("data", 2, 0), ("other", 1, 0), ("data", 1, 1)])
def test_seed_data_and_epoch_each_change_the_order(other):
    def epoch_rows(fingerprint, seed, epoch):
        return RowOrder([8] * 40, fingerprint, seed).rows(epoch * 320, (epoch + 1) * 320)

    assert np.array_equal(epoch_rows("data", 1, 0), epoch_rows("data", 1, 0))
    assert not np.array_equal(epoch_rows("data", 1, 0), epoch_rows(*other))


def test_the_order_is_fixed_for_all_time():
    """A change here breaks every run that is to be resumed: raise the format version instead."""
    assert RowOrder([3, 3, 2], "data", 0).rows(0, 16).tolist() == [7, 0, 5, 1, 2, 6, 4, 3, 5, 0, 3, 1, 4, 6, 2, 7]
    # The generator's published outputs for seed 1234567.
    assert splitmix64(np.uint64(1234567), 3).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_neighbours_of_the_corpus_are_spread_over_the_epoch():
    rows = RowOrder([16] * 64, "data", 0).rows(0, 1024)
    places = np.argsort(rows)
    assert np.abs(np.diff(places)).mean() > 1024 / 20
