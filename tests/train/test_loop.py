import resource
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save

from mtp.train.events import LossSpike, Notice, Saved
from mtp.train.loop import LoopEnd
from mtp.train.manifest import MANIFEST, newest_whole, read_manifest, write_file
from tests.train.datasets import write_dataset
from tests.train.gloo import on_ranks
from tests.train.loops import LOCAL, run
from tests.train.small import ROWS, rows

RARE = 299
"""A token that only the batches of steps 5 and 6 hold."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("loop") / "data", documents=40)


def newest(folder):
    return newest_whole(LOCAL, str(folder))[1].state.step


def names(folder):
    return sorted(path.name for path in folder.glob("step-*"))


def test_evaluating_and_saving_move_no_bit_of_the_training(tmp_path, data):
    often = {"evaluate_every": 1, "checkpoint": {"every_steps": 1, "keep": 2}}
    watched, _ = on_ranks(2, run, tmp_path / "often", data, often)
    alone, _ = on_ranks(2, run, tmp_path / "seldom", data, {"checkpoint": {"every_steps": 100}})
    assert watched.losses == alone.losses
    assert watched.trained == list(range(8))
    assert [saved.step for saved in watched.of(Saved)] == list(range(1, 9))
    losses = {step: watched.metrics[step, "eval/loss_h1"] for step in range(1, 9)}
    best = min(losses, key=losses.__getitem__)
    kept = {int(name.split("-")[1]) for name in names(tmp_path / "often")}
    assert kept == {7, 8, best}
    assert (
        read_manifest(LOCAL, str(tmp_path / "often" / names(tmp_path / "often")[-1])).metrics["eval/loss_h1"]
        == losses[8]
    )


def test_every_log_has_how_busy_the_machine_is(tmp_path, data):
    outcome, _ = on_ranks(2, run, tmp_path / "run", data, {"steps": 2})
    assert 0 < outcome.metrics[2, "system/system_memory_usage_percentage"] <= 100
    assert outcome.metrics[2, "system/cpu_utilization_percentage"] >= 0


def files_end_early(loop, step):
    """From step 3 to 5 rank 1 can write no file of more than a kilobyte."""
    loop.saver.wait()
    if loop.rank == 1 and step in (3, 5):
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if step == 3 else most, most))


def disk_fills_up(loop, step):
    """From step 3 to 5 nothing is left of the disk."""
    loop.saver.wait()
    ballast = f"{loop.folder}/ballast"
    if loop.rank == 0 and step == 3:
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=64k"], stderr=subprocess.DEVNULL)
    if loop.rank == 0 and step == 5:
        LOCAL.delete_file(ballast)
    torch.distributed.barrier()


def assert_one_save_failed(outcomes, folder):
    first, second = outcomes
    assert first.end == LoopEnd.DONE
    assert [saved.step for saved in first.of(Saved)] == [2, 6, 8]
    (notice,) = first.of(Notice)
    assert "the checkpoint after step 4 was not saved" in notice.text
    assert "the earlier ones stay, and training goes on" in notice.text
    assert second.losses == first.losses
    assert {int(name.split("-")[1]) for name in names(folder)} == {6, 8}
    return notice.text


SAVING = {"checkpoint": {"every_steps": 2, "keep": 2, "keep_best": False}}


def test_a_rank_that_cannot_write_costs_one_checkpoint_and_no_step(tmp_path, data):
    settings = {**SAVING, "before": files_end_early}
    text = assert_one_save_failed(on_ranks(2, run, tmp_path / "run", data, settings), tmp_path / "run")
    assert "rank 1 could not write" in text


def test_a_full_disk_leaves_the_earlier_checkpoints_and_says_so(tmp_path, data):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        outcomes = on_ranks(2, run, disk, data, {**SAVING, "before": disk_fills_up})
        assert "No space left on device" in assert_one_save_failed(outcomes, disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def rare_rows(step):
    tokens, document = rows(step)
    if step in (5, 6):
        tokens[0, 0] = RARE
    return tokens, document


def poison(folder):
    """Make the rare token's embedding infinite in the newest checkpoint, and its manifest true again."""
    name, manifest = newest_whole(LOCAL, str(folder))
    files = dict(manifest.files)
    for file in files:
        tensors = load_file(folder / name / file)
        for key in tensors:
            if key.startswith("weight:") and key.endswith("embed_tokens.weight"):
                tensors[key][RARE] = torch.inf
        files[file] = write_file(LOCAL, str(folder / name / file), save(tensors))
    changed = manifest.model_copy(update={"files": files})
    write_file(LOCAL, str(folder / name / MANIFEST), changed.model_dump_json().encode())


POISONED = {**SAVING, "rows_of": rare_rows, "faults": {"max_skipped_steps": 2}}


def poisoned_run(folder, data):
    first, _ = on_ranks(2, run, folder, data, {**POISONED, "stop_at": 4})
    assert first.end == LoopEnd.STOPPED
    poison(folder)


def test_steps_that_move_nothing_end_the_loop_at_its_last_good_checkpoint(tmp_path, data):
    poisoned_run(tmp_path, data)
    for outcome in on_ranks(2, run, tmp_path, data, POISONED):
        assert outcome.end == LoopEnd.DIVERGED
        assert outcome.bad_steps == [5, 6]
        assert [notice.text for notice in outcome.of(Notice)] == [
            f"step {step} was skipped: its loss is not finite" for step in (6, 7)
        ]
    assert newest(tmp_path) == 4, "no checkpoint is made amid steps that move nothing"


def test_a_batch_that_is_passed_over_is_never_trained_on_not_after_a_resume_either(tmp_path, data):
    poisoned_run(tmp_path, data)
    without = {**POISONED, "passed_over": (5, 6)}
    through, other = on_ranks(2, run, tmp_path, data, {**without, "checkpoint": {"every_steps": 100}, "stop_at": 7})
    assert through.trained == [4]
    assert through.state.step == 7 and through.state.rows == 7 * ROWS and through.state.applied_steps == 5
    assert newest(tmp_path) == 7
    again, _ = on_ranks(2, run, tmp_path, data, without)
    assert again.trained == [7]
    assert again.end == LoopEnd.DONE and again.state.applied_steps == 6
    assert other.losses == through.losses
    assert again.metrics[8, "train/skipped_steps"] == 2


def same_rows_but_one(step):
    return rows(100 if step == 10 else 0)


def test_a_loss_that_leaps_is_flagged_on_every_rank_and_after_a_resume_alike(tmp_path, data):
    settings = {"steps": 11, "rows_of": same_rows_but_one, "faults": {"spike_sigma": 1.0, "spike_window": 9}}
    through, other = on_ranks(2, run, tmp_path / "through", data, settings)
    (spike,) = through.of(LossSpike)
    assert spike.step == 11 and spike.sigmas > 1.0
    assert other.of(LossSpike) == [spike]
    assert through.metrics[11, "train/loss_spikes"] == 1 and through.metrics[10, "train/loss_spikes"] == 0
    on_ranks(2, run, tmp_path / "resumed", data, {**settings, "stop_at": 9})
    resumed, _ = on_ranks(2, run, tmp_path / "resumed", data, settings)
    assert resumed.trained == [9, 10]
    assert resumed.of(LossSpike) == [spike]
