"""Bad shards in a training of two workers: left out, counted and remembered by all, or the end with their name."""

import pytest

from mtp.errors import MTPError
from mtp.train.events import Notice, StepDone
from mtp.train.manifest import newest_whole
from mtp.train.run_folder import RunFolder
from tests.train.datasets import write_dataset
from tests.train.test_fit import Run, settings


def skipping(root, name, limit, **train):
    config = settings(root, name, **train)
    data = config.data.model_copy(update={"on_bad_shard": "skip", "max_bad_shards": limit})
    return config.model_copy(update={"data": data})


@pytest.mark.long
def test_a_bad_shard_is_left_out_by_both_workers_up_to_the_limit(ray_cluster, mlflow_uri, tmp_path):
    write_dataset(tmp_path / "data")
    shard = tmp_path / "data/train/shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-7])
    config = skipping(tmp_path, "skip", limit=1)
    run = Run(config, mlflow_uri)
    named = [event.text for event in run.of(Notice) if "bad shard 1 of at most 1" in event.text]
    assert len(named) == 1 and "shard-00001.parquet is corrupt" in named[0]
    assert run.result.metrics["train/bad_shards"] == 1
    assert len(run.of(StepDone)) == run.result.steps
    folder = RunFolder.of(config)
    _, manifest = newest_whole(folder.filesystem, folder.path)
    assert manifest.state.bad_shards == (str(shard),)
    with pytest.raises(MTPError, match=r"more than 0 shards are bad .*shard-00001\.parquet is corrupt"):
        Run(skipping(tmp_path, "strict", limit=0), mlflow_uri)
