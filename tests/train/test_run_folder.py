import pytest

from mtp.config import build_config
from mtp.errors import MTPError, UsageError
from mtp.train import RunFolder, TrainResult
from mtp.train.manifest import checkpoint_name
from mtp.train.run_folder import RECORD, fixed_values


def config_at(path, **train):
    return build_config({"train": {"storage_path": str(path), "run_name": "run", **train}})


def begin(path, **train):
    config = config_at(path, **train)
    folder = RunFolder.of(config)
    return folder, folder.begin("id", fixed_values(config, "fingerprint"))


RESULT = TrainResult(model_dir="m", steps=3, tokens=9, skipped_steps=0, seconds=1.0, metrics={"eval/ppl": 2.0})


def test_a_new_run_begins_and_remembers_its_mlflow_run(tmp_path):
    folder, finished = begin(tmp_path)
    assert finished is None
    assert folder.record().run_id == "id"


def test_a_finished_run_gives_its_result_back(tmp_path):
    folder, _ = begin(tmp_path)
    folder.finish(RESULT)
    folder.remember_version("models:/mtp/3")
    _, finished = begin(tmp_path)
    assert finished == RESULT
    assert folder.record().model_version == "models:/mtp/3"


def test_a_run_with_checkpoints_refuses_another_learning_rate_by_name(tmp_path):
    _folder, _ = begin(tmp_path)
    (tmp_path / "run" / checkpoint_name(5, 1)).mkdir()
    with pytest.raises(UsageError, match=r"train\.optimizer\.lr \(0\.003, now 0\.1\).*another train\.run_name"):
        begin(tmp_path, optimizer={"lr": 0.1})


def test_a_run_without_checkpoints_may_begin_again_otherwise(tmp_path):
    begin(tmp_path)
    _, finished = begin(tmp_path, optimizer={"lr": 0.1})
    assert finished is None


def test_workers_and_sharding_may_change(tmp_path):
    begin(tmp_path)
    (tmp_path / "run" / checkpoint_name(5, 1)).mkdir()
    _, finished = begin(tmp_path, num_workers=4, zero_stage=3, log_every=1)
    assert finished is None


def test_a_damaged_record_is_named(tmp_path):
    folder, _ = begin(tmp_path)
    (tmp_path / "run" / RECORD).write_text("{")
    with pytest.raises(MTPError, match=r"run\.json is damaged"):
        folder.record()
