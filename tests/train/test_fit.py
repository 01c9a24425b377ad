import os
import signal
from pathlib import Path

import pytest
import torch

from mtp.checkpoint import load_model
from mtp.config import build_config
from mtp.errors import UsageError
from mtp.train import fit
from mtp.train.events import Notice, Planned, Saved, StepDone, WorkerReady
from tests.train.datasets import write_dataset
from tests.train.small import SIZES

STEPS = 16


def settings(root, name, **train):
    return build_config(
        {
            "data": {"path": str(root / "data"), "seq_len": 32, "vocab_size": 300},
            "model": {**SIZES, "vocab_size": 300, "n_routed_experts": 4},
            "train": {
                "run_name": name, "storage_path": str(root / "runs"), "steps": STEPS, "batch_size": 8, "log_every": 1,
                "evaluate_rows": 8, "checkpoint": {"every_steps": 4}, **train,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("train")
    write_dataset(root / "data")
    return root


class Run:
    """One fit with what it told."""

    def __init__(self, config, uri, on_event=lambda event: None):
        self.events = []
        self.uri = uri
        self.on_event = on_event
        self.result = fit(config, run_id=new_run(uri), tracking_uri=uri, on_progress=self.take)

    def take(self, event):
        self.events.append(event)
        self.on_event(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def losses(self):
        return {event.step: event.metrics["train/loss"] for event in self.of(StepDone)}


def new_run(uri):
    from mtp.config import TrackingConfig
    from mtp.registry import start_run

    return start_run(TrackingConfig(uri=uri), "test", {})


@pytest.fixture(scope="module")
def through(root, ray_cluster, mlflow_uri):
    return Run(settings(root, "through"), mlflow_uri)


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


@pytest.mark.slow
def test_a_killed_worker_costs_no_bit(through, root):
    killed = []

    def kill_once(event):
        if isinstance(event, StepDone) and event.step == 10 and not killed:
            killed.append(worker_process())
            os.kill(killed[0], signal.SIGKILL)

    run = Run(settings(root, "killed"), through.uri, kill_once)
    assert killed
    assert run.of(Planned)[-1].resumed_from
    assert run.losses() == through.losses()
    first, second = load_model(run.result.model_dir), load_model(through.result.model_dir)
    torch.testing.assert_close(dict(first.named_parameters()), dict(second.named_parameters()), rtol=0, atol=0)


def worker_process():
    """A Ray Train worker of this session's cluster: found by its title and by our state folder in its environment."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in title and os.environ["MTP_HOME"].encode() in environment:
            return int(entry.name)
    raise AssertionError("no training worker found")
