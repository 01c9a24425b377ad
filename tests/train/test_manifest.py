import pyarrow.fs as fs
import pytest

from mtp.train.manifest import (
    MANIFEST,
    Manifest,
    TrainerState,
    checkpoint_name,
    checkpoints,
    newest_stamp,
    newest_whole,
    write_file,
)

LOCAL = fs.LocalFileSystem()
STATE = TrainerState(
    step=2, applied_steps=2, total_steps=9, rows=8, tokens=64, run_id="r", data_fingerprint="f",
    global_batch=4, seed=0, world=1, zero_stage=1,
)  # fmt: skip


def write_checkpoint(run, step, stamp=1):
    name = checkpoint_name(step, stamp)
    folder = run / name
    folder.mkdir(parents=True)
    records = {file: write_file(LOCAL, str(folder / file), file.encode() * 50) for file in ("a", "b")}
    manifest = Manifest(state=STATE.model_copy(update={"step": step}), model={}, files=records)
    write_file(LOCAL, str(folder / MANIFEST), manifest.model_dump_json().encode())
    return folder


def newest_step(run):
    found = newest_whole(LOCAL, str(run))
    return found and found[1].state.step


def test_the_newest_checkpoint_is_found_by_its_step(tmp_path):
    for step in (100, 20, 3):
        write_checkpoint(tmp_path, step)
    assert newest_step(tmp_path) == 100
    assert len(checkpoints(LOCAL, str(tmp_path))) == 3


def test_of_two_tries_at_a_step_the_one_with_the_greater_stamp_counts(tmp_path):
    for stamp in (999, 1000, 7):
        write_checkpoint(tmp_path, 4, stamp)
    write_checkpoint(tmp_path, 3, 2000)
    assert newest_whole(LOCAL, str(tmp_path))[0] == checkpoint_name(4, 1000)
    assert newest_stamp(LOCAL, str(tmp_path)) == 2000
    assert newest_stamp(LOCAL, str(tmp_path / "absent")) == 0


def test_a_run_without_checkpoints_has_none(tmp_path):
    (tmp_path / "model").mkdir()
    assert newest_whole(LOCAL, str(tmp_path)) is None
    assert newest_whole(LOCAL, str(tmp_path / "absent")) is None


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "no manifest", "torn manifest"])
def test_a_damaged_checkpoint_is_never_chosen(tmp_path, damage):
    write_checkpoint(tmp_path, 1)
    newest = write_checkpoint(tmp_path, 2)
    shard, manifest = newest / "b", newest / MANIFEST
    match damage:
        case "missing":
            shard.unlink()
        case "truncated":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "flipped":
            content = bytearray(shard.read_bytes())
            content[7] ^= 1
            shard.write_bytes(content)
        case "no manifest":
            manifest.unlink()
        case "torn manifest":
            manifest.write_bytes(manifest.read_bytes()[:40])
    assert newest_step(tmp_path) == 1
