"""A data set appears whole or not at all, whenever its maker is killed."""

import signal
import subprocess
import sys
import textwrap

import pytest

from mtp.data import open_dataset
from mtp.data.publication import SPLITS, publication, refuse_foreign_folder
from mtp.data.storage import Location
from mtp.errors import MTPError, UsageError
from tests.data.datasets import write_dataset


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def make(target, seed=0):
    with publication(Location.of(target)) as place:
        manifests = {split: write_dataset(place.workspace / split, seed=seed) for split in SPLITS}
        place.publish(manifests)


def start_and_wait_inside(target):
    """Another process that has written a split into the workspace of `target` and holds it open."""
    script = f"""
        import time
        from mtp.data.publication import publication
        from mtp.data.storage import Location
        from tests.data.datasets import write_dataset
        with publication(Location.of({str(target)!r})) as place:
            write_dataset(place.workspace / "train")
            print("inside", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "inside\n"
    return process


def test_a_published_data_set_is_whole_and_nothing_else_is_left(tmp_path):
    make(tmp_path / "data")
    for split in SPLITS:
        open_dataset(tmp_path / "data" / split).verify()
    assert names(tmp_path) == ["data"]


def test_a_new_data_set_replaces_the_old_one_as_a_whole(tmp_path):
    make(tmp_path / "data", seed=0)
    before = open_dataset(tmp_path / "data" / "train").manifest.fingerprint
    make(tmp_path / "data", seed=1)
    assert open_dataset(tmp_path / "data" / "train").manifest.fingerprint != before
    assert names(tmp_path) == ["data"]


def test_a_failure_leaves_the_old_data_set_and_no_rubbish(tmp_path):
    make(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt), publication(Location.of(tmp_path / "data")) as place:
        write_dataset(place.workspace / "train", seed=5)
        raise KeyboardInterrupt
    open_dataset(tmp_path / "data" / "train").verify()
    assert names(tmp_path) == ["data"]


def test_what_a_killed_prepare_left_is_no_data_set_and_the_next_one_clears_it(tmp_path):
    process = start_and_wait_inside(tmp_path / "data")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [name for name in names(tmp_path) if ".partial-" in name]
    with pytest.raises(MTPError, match="not a finished data set"):
        open_dataset(tmp_path / "data" / "train")
    make(tmp_path / "data")
    open_dataset(tmp_path / "data" / "train").verify()
    assert names(tmp_path) == ["data"]


def test_two_prepares_of_one_place_do_not_meet(tmp_path):
    process = start_and_wait_inside(tmp_path / "data")
    try:
        with pytest.raises(MTPError, match=r"another prepare is writing .*data"):
            make(tmp_path / "data")
        make(tmp_path / "other")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_folder_with_other_things_in_it_is_never_replaced(tmp_path):
    (tmp_path / "train").mkdir()
    refuse_foreign_folder(Location.of(tmp_path))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds other things \(thesis\.tex\)"):
        refuse_foreign_folder(Location.of(tmp_path))
    with pytest.raises(UsageError, match="is a file"):
        refuse_foreign_folder(Location.of(tmp_path / "thesis.tex"))


def test_on_an_object_store_the_old_manifest_goes_first_and_the_new_one_comes_last():
    target = Location.of("memory://bucket/data")
    assert not target.is_local
    for seed in (0, 1):
        with publication(target) as place:
            assert not (target / "train" / "manifest.json").exists()
            manifests = {split: write_dataset(place.workspace / split, seed=seed) for split in SPLITS}
            place.publish(manifests)
        open_dataset(f"{target}/train").verify()
    with pytest.raises(KeyboardInterrupt), publication(target):
        raise KeyboardInterrupt
    with pytest.raises(MTPError, match="not a finished data set"):
        open_dataset(f"{target}/train")
