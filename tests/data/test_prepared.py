"""A prepared data set: reads what was written, and never passes off damage as data."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtp.data import open_dataset, read_rows
from mtp.data.manifest import ShardRecord
from mtp.data.shards import Shard, encode_shard, sha256
from mtp.data.storage import Location
from mtp.errors import MTPError, UsageError
from tests.data.datasets import write_dataset


def test_rows_come_back_by_number_in_the_asked_order(tmp_path):
    write_dataset(tmp_path)
    tokens, document = read_rows(tmp_path)
    assert tokens.shape == document.shape == (103, 16)
    assert tokens[:, 0].tolist() == list(range(103))
    assert str(tokens.dtype) == "torch.int64" and str(document.dtype) == "torch.int32"
    wanted = [102, 0, 41, 40, 39, 41]
    taken, owners = open_dataset(tmp_path).take(wanted)
    assert np.array_equal(taken, tokens[wanted]) and np.array_equal(owners, document[wanted])


def test_a_stretch_of_rows_may_begin_anywhere_and_stops_at_the_end(tmp_path):
    write_dataset(tmp_path)
    assert read_rows(tmp_path, start=38, limit=4)[0][:, 0].tolist() == [38, 39, 40, 41]
    assert read_rows(tmp_path, start=100, limit=50)[0][:, 0].tolist() == [100, 101, 102]
    with pytest.raises(UsageError, match=r"row 103 is not in .* rows 0 to 102"):
        read_rows(tmp_path, start=103)


def test_token_counts_are_those_of_the_rows(tmp_path):
    write_dataset(tmp_path)
    tokens, _ = read_rows(tmp_path)
    assert np.array_equal(open_dataset(tmp_path).token_counts(), np.bincount(tokens.ravel(), minlength=300))


def test_rows_cross_row_groups_of_every_shard(tmp_path):
    write_dataset(tmp_path, shard_rows=(9, 3, 10), seq_len=16_384)
    assert open_dataset(tmp_path).manifest.group_rows == 4
    order = np.random.default_rng(0).permutation(22)
    assert open_dataset(tmp_path).take(order)[0][:, 0].tolist() == order.tolist()


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path):
    with pytest.raises(MTPError, match=r"manifest\.json does not exist.*mtp prepare"):
        open_dataset(tmp_path / "nothing")


def test_another_format_version_is_refused(tmp_path):
    write_dataset(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 7}))
    with pytest.raises(MTPError, match=r"manifest\.json has format version 7 and this mtp reads 1"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", '{"format_version": 1}', "\x00\x01"])
def test_a_manifest_that_is_none_is_refused_by_name(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(MTPError, match=r"manifest\.json (is not JSON|has format version None|is damaged)"):
        open_dataset(tmp_path)


def test_an_edited_manifest_is_noticed(tmp_path):
    write_dataset(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace('"rows": 103', '"rows": 102'))
    with pytest.raises(MTPError, match="does not match its own fingerprint"):
        open_dataset(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    write_dataset(tmp_path)
    (tmp_path / "shard-00001.parquet").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.take([0])[0].shape == (1, 16)
    for read in (dataset.verify, dataset.check_sizes, lambda: dataset.take([40])):
        with pytest.raises(MTPError, match=r"shard-00001\.parquet is missing"):
            read()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap"])
def test_a_changed_shard_is_named(tmp_path, damage):
    write_dataset(tmp_path)
    file = tmp_path / "shard-00002.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    changed = {"flip": content, "cut": content[:-9], "empty": b""}
    file.write_bytes(changed.get(damage, (tmp_path / "shard-00001.parquet").read_bytes()))
    for read in (open_dataset(tmp_path).verify, lambda: read_rows(tmp_path, start=90)):
        with pytest.raises(MTPError, match=r"shard .*shard-00002\.parquet is corrupt: its sha256 is"):
            read()


@pytest.mark.parametrize("name", ["tokenizer.json", "token_counts.json"])
def test_a_changed_companion_file_is_named(tmp_path, name):
    write_dataset(tmp_path)
    (tmp_path / name).write_text("[]")
    with pytest.raises(MTPError, match=rf"{name} is corrupt"):
        open_dataset(tmp_path).verify()


@pytest.fixture(scope="module")
def shard_bytes():
    random = np.random.default_rng(0)
    tokens = random.integers(0, 300, (64, 64)).astype(np.uint16)
    document = np.sort(random.integers(0, 3, (64, 64)), axis=1).astype(np.int32)
    return tokens, document, encode_shard(tokens, document).to_pybytes()


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rot_after_the_sha256_was_checked_is_caught_by_page_checksums(shard_bytes, tmp_path, data):
    """What changes on disk between the check at opening and a later read of the same open shard."""
    tokens, document, content = shard_bytes
    file = tmp_path / "shard.parquet"
    file.write_bytes(content)
    record = ShardRecord(name=file.name, rows=64, tokens=0, documents=0, bytes=len(content), sha256=sha256(content))
    shard = Shard(Location.of(file), record, 64)
    place = data.draw(st.integers(0, len(content) - 1))
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes([content[place] ^ (1 << data.draw(st.integers(0, 7)))]))
    try:
        found, owners = shard.read_groups([0])
    except MTPError as error:
        assert "shard.parquet is corrupt in row group 0" in str(error)
    else:
        assert np.array_equal(found, tokens) and np.array_equal(owners, document)


def test_equal_rows_give_equal_bytes(shard_bytes):
    tokens, document, content = shard_bytes
    assert encode_shard(tokens.copy(), document.copy()).to_pybytes() == content
