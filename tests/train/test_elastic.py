"""`num_workers: [min, max]`: as many workers as the cluster has room for, and the same loss curve with any number."""

import re

import pytest
import torch

from mtp.checkpoint import load_model
from mtp.config import dump_config
from mtp.registry import metric_history
from mtp.train.events import WorkerReady
from tests.train.fits import Run, new_run, settings
from tests.train.test_faults import Driver

pytestmark = pytest.mark.long


def test_a_group_starts_with_as_many_workers_as_there_is_room_for(through, root):
    run = Run(settings(root, "cramped", num_workers=[1, 2], cpus_per_worker=2.5), through.uri)
    assert [ready.world for ready in run.of(WorkerReady)] == [1]
    torch.testing.assert_close(run.losses(), through.losses(), rtol=1e-4, atol=0)


def test_a_group_shrinks_when_a_node_is_lost_and_the_loss_curve_goes_on(through, root, tmp_path):
    (tmp_path / "config.yaml").write_text(
        dump_config(settings(root, "shrinking", num_workers=[1, 2], cpus_per_worker=0.9, zero_stage=2))
    )
    run_id = new_run(through.uri)
    said, code = Driver(tmp_path / "config.yaml", run_id, "18", "alone").end()
    assert code == 0, said
    assert re.findall(r"WorkerReady\(rank=\d, world=(\d)", said) == ["2", "2", "1"], said
    assert "resumed_from='step-" in said
    losses = dict(metric_history(run_id, uri=through.uri)["train/loss"])
    torch.testing.assert_close(losses, through.losses(), rtol=1e-4, atol=0)


def test_all_kinds_of_sharding_at_once_train_the_same_model_through_ray(through, root):
    everything = {
        "zero_stage": 3,
        "expert_parallel": 2,
        "activation_checkpointing": True,
        "offload": {"optimizer": "cpu", "parameters": "cpu"},
        "micro_batch_size": 2,
    }
    run = Run(settings(root, "sharded", **everything), through.uri)
    torch.testing.assert_close(run.losses(), through.losses(), rtol=1e-4, atol=0)
    got, expected = (load_model(one.result.model_dir).state_dict() for one in (run, through))
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        assert float((got[name] - weight).norm()) <= 1e-3 * float(weight.norm()) + 1e-6, name
