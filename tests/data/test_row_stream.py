"""The ledger: which rows training reads, over epochs, restarts and numbers of workers."""

import itertools

import numpy as np
import pytest
import torch

from mtp.data import open_dataset, read_rows
from mtp.data.order import RowOrder
from mtp.data.stream.row_source import MAX_TASKS, RankSlice, RowSource, Stretch
from mtp.data.stream.row_stream import RowStream
from mtp.data.training_data import TrainingData, plain
from mtp.errors import MTPError, UsageError
from tests.data.datasets import write_dataset

ROWS, BATCH = 103, 8
EPOCHS_STEPS = 3 * ROWS // BATCH + 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_dataset(folder, seq_len=16_384)  # 4 rows in a row group: several windows an epoch
    return folder


@pytest.fixture(scope="module")
def order(data):
    manifest = open_dataset(data).manifest
    return RowOrder(manifest.group_sizes(), manifest.fingerprint, seed=7)


def ledger(data, world, start_step=0, steps=EPOCHS_STEPS):
    """Row ids of each step, ranks in order: (steps, BATCH)."""
    shares = []
    for rank in range(world):
        part = RankSlice(BATCH, rank, world)
        stream = RowStream(data, seed=7, part=part, start_row=start_step * BATCH, steps=steps)
        shares.append(np.stack([batch.row_ids.numpy() for batch in stream]))
        assert len(shares[-1]) == len(stream) == steps
    return np.concatenate(shares, axis=1)


def test_three_epochs_read_every_row_three_times_in_the_fixed_order(ray_cluster, data, order):
    read = ledger(data, world=1).ravel()
    assert np.array_equal(read, order.rows(0, EPOCHS_STEPS * BATCH))
    for epoch in range(3):
        assert sorted(read[epoch * ROWS : (epoch + 1) * ROWS]) == list(range(ROWS))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_any_number_of_workers_reads_the_same_rows_at_every_step(ray_cluster, data, order, world):
    expected = order.rows(0, EPOCHS_STEPS * BATCH).reshape(-1, BATCH)
    assert np.array_equal(ledger(data, world), expected)


def test_a_restart_on_another_number_of_workers_goes_on_without_gap_or_repeat(ray_cluster, data, order):
    cuts = [(0, 5, 2), (5, 13, 1), (13, 14, 4), (14, EPOCHS_STEPS, 2)]
    parts = [ledger(data, world, start, stop - start) for start, stop, world in cuts]
    assert np.array_equal(np.concatenate(parts).ravel(), order.rows(0, EPOCHS_STEPS * BATCH))


def test_a_batch_holds_the_rows_that_its_ids_name(ray_cluster, data):
    tokens, document = read_rows(data)
    for batch in RowStream(data, seed=7, part=RankSlice(BATCH, 1, 2), steps=20):
        assert batch.tokens.equal(tokens[batch.row_ids]) and batch.document.equal(document[batch.row_ids])


def test_a_stream_started_ahead_gives_what_a_fresh_one_gives(ray_cluster, data):
    part = RankSlice(BATCH)
    plain = [batch.row_ids.tolist() for batch in RowStream(data, seed=7, part=part, steps=5)]
    ahead = RowStream(data, seed=7, part=part, steps=5).start()
    assert [batch.row_ids.tolist() for batch in ahead] == plain
    assert [batch.row_ids.tolist() for batch in ahead] == plain


def test_a_stream_left_early_can_be_followed_by_another(ray_cluster, data, order):
    first = next(iter(RowStream(data, seed=7, part=RankSlice(BATCH), steps=EPOCHS_STEPS)))
    assert first.row_ids.tolist() == order.rows(0, BATCH).tolist()
    assert ledger(data, world=1, steps=3).ravel().tolist() == order.rows(0, 3 * BATCH).tolist()


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_a_bad_shard_stops_the_stream_with_its_name(ray_cluster, tmp_path, damage):
    write_dataset(tmp_path)
    shard = tmp_path / "shard-00001.parquet"
    if damage == "missing":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        content[100] ^= 1
        shard.write_bytes(content)
    expected = rf"shard-00001\.parquet is {damage}"
    with pytest.raises(MTPError, match=expected) as raised:
        list(RowStream(tmp_path, seed=7, part=RankSlice(BATCH), steps=10).start())
    assert "\n" not in str(raised.value)


def test_a_data_set_that_was_replaced_under_a_stream_stops_it(ray_cluster, tmp_path):
    write_dataset(tmp_path, seed=0)
    stream = RowStream(tmp_path, seed=7, part=RankSlice(BATCH), steps=5)
    write_dataset(tmp_path, seed=1)
    with pytest.raises(MTPError, match="was prepared again in the meantime"):
        list(stream)


@pytest.mark.parametrize(("batch", "rank", "world"), [(8, 0, 3), (8, 2, 2), (8, -1, 2), (0, 0, 1)])
def test_a_share_that_does_not_exist_is_refused(batch, rank, world):
    with pytest.raises(UsageError):
        RankSlice(batch, rank, world)


def test_the_number_of_tasks_is_bounded_for_any_length(data):
    stretch = Stretch.of(plain(data), seed=7, start=5, num_rows=ROWS * 20_000, part=RankSlice(BATCH))
    spans = RowSource(stretch).spans
    assert len(spans) <= MAX_TASKS
    assert spans[0][0] == 5 and spans[-1][1] == 5 + ROWS * 20_000
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Two sources, three rows of the first to one of the second."""
    folder = tmp_path_factory.mktemp("mixture")
    for seed, (name, rows) in enumerate({"a": (40, 23), "b": (17,)}.items()):
        write_dataset(folder / name, shard_rows=rows, seq_len=16_384, seed=seed)
    return TrainingData(tuple(open_dataset(folder / name) for name in "ab"), (3.0, 1.0))


def test_a_mixture_is_read_in_its_order_by_any_number_of_workers_across_restarts(ray_cluster, mixture):
    chosen, rows = mixture.order(7).places(0, 25 * BATCH)
    found = []
    for start, stop, world in ((0, 9, 2), (9, 25, 1)):
        shares = []
        for rank in range(world):
            part = RankSlice(BATCH, rank, world)
            stream = RowStream(mixture, seed=7, part=part, start_row=start * BATCH, steps=stop - start)
            shares.append([torch.stack([batch.sources, batch.row_ids], dim=1) for batch in stream])
        found += [torch.cat(of_step) for of_step in zip(*shares, strict=True)]
    assert torch.cat(found).T.tolist() == [chosen.tolist(), rows.tolist()]


def test_a_batch_of_a_mixture_holds_the_rows_that_its_ids_name(ray_cluster, mixture):
    contents = [read_rows(source)[0] for source in mixture.sources]
    for batch in RowStream(mixture, seed=7, part=RankSlice(BATCH), steps=4):
        for tokens, source, row in zip(batch.tokens, batch.sources, batch.row_ids, strict=True):
            assert tokens.equal(contents[source][row])


def test_rows_of_a_bad_shard_are_padding_where_they_stood_and_no_other_row_moves(ray_cluster, tmp_path):
    for name in ("whole", "bad"):
        write_dataset(tmp_path / name)
    whole = list(RowStream(tmp_path / "whole", seed=7, part=RankSlice(BATCH), steps=26))
    shard = tmp_path / "bad/shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    skipping = list(RowStream(tmp_path / "bad", seed=7, part=RankSlice(BATCH), steps=26, skip_bad_shards=True))
    named = {name: why for batch in skipping for name, why in batch.bad_shards.items()}
    assert list(named) == [str(shard)] and "is corrupt" in named[str(shard)]
    for before, after in zip(whole, skipping, strict=True):
        gone = (before.row_ids >= 40) & (before.row_ids < 80)
        assert after.row_ids.equal(before.row_ids)
        assert (after.document[gone] == -1).all()
        assert after.tokens[~gone].equal(before.tokens[~gone]) and after.document[~gone].equal(before.document[~gone])
        assert bool(after.bad_shards) == bool(gone.any())


def test_a_shard_that_another_rank_could_not_read_is_left_out_from_the_next_batch_on(ray_cluster, tmp_path):
    write_dataset(tmp_path)
    stream = RowStream(tmp_path, seed=7, part=RankSlice(BATCH), steps=8)
    for number, batch in enumerate(stream):
        mine = (batch.row_ids >= 40) & (batch.row_ids < 80)
        assert ((batch.document == -1).all(dim=1) == (mine if number else torch.zeros_like(mine))).all()
        stream.leave_out([str(tmp_path / "shard-00001.parquet")])


@pytest.mark.parametrize("scheme", ["file://", "local://"], ids=["pyarrow's own", "fsspec's"])
def test_a_data_set_behind_a_url_is_streamed_alike(ray_cluster, data, order, scheme):
    stream = RowStream(f"{scheme}{data}", seed=7, part=RankSlice(BATCH), steps=4)
    read = [row for batch in stream for row in batch.row_ids.tolist()]
    assert read == order.rows(0, 4 * BATCH).tolist()
