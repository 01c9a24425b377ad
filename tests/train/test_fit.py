import pytest
import torch

from mtp.checkpoint import load_model
from mtp.errors import UsageError
from mtp.train.events import Notice, Saved, StepDone, WorkerReady
from tests.train.fits import STEPS, Run, settings


def test_two_deepspeed_workers_fed_by_ray_data_learn(through):
    assert sorted(ready.rank for ready in through.of(WorkerReady)) == [0, 1]
    assert {ready.rows_per_step for ready in through.of(WorkerReady)} == {4}
    losses = through.losses()
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < 0.8 * losses[1]
    assert through.result.metrics["eval/ppl"] < 300


def test_the_run_leaves_a_model_that_loads(through):
    model = load_model(through.result.model_dir)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert through.result.steps == STEPS


def test_the_last_checkpoints_stay_and_older_ones_go(through, root):
    assert len(through.of(Saved)) == STEPS // 4
    names = sorted(path.name for path in (root / "runs" / "through").glob("step-*"))
    assert names == [saved.name for saved in through.of(Saved)][-2:]


def test_a_finished_run_is_not_trained_again(through, root):
    again = Run(settings(root, "through"), through.uri)
    assert again.result == through.result
    assert not again.of(StepDone)
    assert "is finished" in again.of(Notice)[0].text


def test_more_cpus_than_the_cluster_has_are_refused_before_anything_starts(through, root):
    with pytest.raises(UsageError, match=r"needs 1000\.1 CPUs.*lower train\.num_workers"):
        Run(settings(root, "greedy", cpus_per_worker=500), through.uri)


def test_rows_of_another_length_are_refused(through, root):
    config = settings(root, "long")
    other = config.model_copy(update={"data": config.data.model_copy(update={"seq_len": 48})})
    with pytest.raises(UsageError, match=r"rows of 32 tokens, but data\.seq_len is 48"):
        Run(other, through.uri)
