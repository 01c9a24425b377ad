"""Real processes that are killed, stopped or hung at a random step; what follows must equal the undisturbed run."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from mtp.checkpoint import load_model
from mtp.config import dump_config
from mtp.data import open_training_data
from mtp.errors import MTPError
from mtp.registry import metric_history
from mtp.train import RunFolder
from mtp.train.events import Planned, RolledBack, StepDone
from mtp.train.manifest import MANIFEST, newest_whole, write_file
from tests.train.datasets import small_tokenizer, write_dataset
from tests.train.fits import STEPS, Run, new_run, settings, worker_processes

pytestmark = pytest.mark.long
ASKING = (signal.SIGTERM, signal.SIGINT)
DRIVER = Path(__file__).with_name("driver.py")


def any_step():
    """Past the first checkpoint, and early enough that the run has not ended when the news of the step arrives."""
    return random.randrange(5, STEPS // 2)


class Once:
    """On the first news of a step from `step` on, does something to one of the workers, once."""

    def __init__(self, step, act):
        self.step, self.act, self.done_to = step, act, None

    def __call__(self, event):
        if isinstance(event, StepDone) and event.step >= self.step and self.done_to is None:
            self.done_to = random.choice(worker_processes())
            os.kill(self.done_to, self.act)


def assert_equals(run, through):
    assert run.losses() == through.losses()
    first, second = load_model(run.result.model_dir), load_model(through.result.model_dir)
    torch.testing.assert_close(dict(first.named_parameters()), dict(second.named_parameters()), rtol=0, atol=0)


def test_a_killed_worker_costs_no_bit(through, root):
    kill = Once(any_step(), signal.SIGKILL)
    run = Run(settings(root, "killed"), through.uri, kill)
    assert kill.done_to and run.of(Planned)[-1].resumed_from, f"killed at step {kill.step}"
    assert_equals(run, through)


def test_a_worker_that_hangs_is_found_and_replaced_in_the_configured_time(through, root):
    hang = Once(any_step(), signal.SIGSTOP)
    run = Run(settings(root, "hung", faults={"collective_timeout_s": 60}), through.uri, hang)
    assert hang.done_to and run.of(Planned)[-1].resumed_from, f"stopped at step {hang.step}"
    assert_equals(run, through)
    assert hang.done_to not in worker_processes_or_none(), "the hung process has gone"


def worker_processes_or_none():
    try:
        return worker_processes()
    except AssertionError:
        return []


class Driver:
    """A training's driver in a process of its own; given a step, on a cluster of its own."""

    def __init__(self, config_file, run_id, *step):
        command = [sys.executable, str(DRIVER), str(config_file), run_id, *step]
        environment = {name: value for name, value in os.environ.items() if not (step and name.startswith("RAY_"))}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def until_step(self, step):
        for line in self.process.stdout:
            match = re.match(r"StepDone\(step=(\d+)", line)
            if match and int(match[1]) >= step:
                return self
        raise AssertionError(f"the driver ended before step {step}")

    def end(self, number=None):
        """Send the signal, if any; what the process printed from then on, and its exit code."""
        if number is not None:
            self.process.send_signal(number)
        rest = self.process.stdout.read()
        return rest, self.process.wait()


def assert_each_step_once(run_id, through):
    """The MLflow run has every step of the training once, with the loss of the undisturbed run."""
    losses = metric_history(run_id, uri=through.uri)["train/loss"]
    assert losses == sorted(through.losses().items())


def test_a_run_goes_on_after_it_was_asked_to_stop_and_after_its_driver_was_killed(through, root, tmp_path):
    config = settings(root, "driven")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    run_id = new_run(through.uri)
    said, code = Driver(tmp_path / "config.yaml", run_id).until_step(5).end(random.choice(ASKING))
    assert code == 1
    saved = re.search(r"asked to stop; the same command goes on from its checkpoint step-(\d+)-", said)
    steps = [int(step) for step in re.findall(r"StepDone\(step=(\d+)", said)]
    assert int(saved[1]) >= max(steps, default=5), "the step that runs is saved"
    later = random.randrange(int(saved[1]) + 1, STEPS - 5)
    _, code = Driver(tmp_path / "config.yaml", run_id).until_step(later).end(signal.SIGKILL)
    assert code == -signal.SIGKILL, f"killed at step {later}"
    said, code = Driver(tmp_path / "config.yaml", run_id).end()
    assert code == 0 and "resumed_from='step-" in said, said
    assert_each_step_once(run_id, through)


def test_a_run_outlives_the_node_of_one_of_its_workers(through, root, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(settings(root, "node", cpus_per_worker=0.9)))
    run_id, step = new_run(through.uri), any_step()
    said, code = Driver(tmp_path / "config.yaml", run_id, str(step)).end()
    assert code == 0, f"lost at step {step}: {said}"
    assert said.count("Planned(") == 2 and "resumed_from='step-" in said
    assert_each_step_once(run_id, through)


RARE = "zzz"
"""A text of which only one document of the data set is made; its first token is in no other."""


def steps_with_the_rare_document(config):
    """The steps (from 0) whose batch holds it, once an epoch."""
    data = open_training_data(config.data)
    tokens, _ = data.first_rows(config.data.seed, config.train.steps * config.train.batch_size)
    rare = (tokens == data.tokenizer.encode(RARE)[0]).any(dim=1).nonzero().flatten()
    return sorted({int(row) // config.train.batch_size for row in rare})


def test_a_run_goes_back_and_leaves_out_the_batches_that_broke_it(through, root):
    write_dataset(root / "rare", rare=RARE)
    config = settings(root, "poisoned", steps=30, faults={"max_skipped_steps": 1, "max_rollbacks": 5})
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(root / "rare")})})

    def stop(event):
        if isinstance(event, StepDone) and event.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(MTPError, match="asked to stop"):
        Run(config, through.uri, stop)
    folder = RunFolder.of(config)
    begun = poison(folder, RARE)
    bad = [step for step in steps_with_the_rare_document(config) if step >= begun]
    assert bad
    run = Run(config, through.uri)
    assert [event.passed_over for event in run.of(RolledBack)] == [(step,) for step in bad]
    assert folder.record().passed_over == set(bad)
    assert {event.step - 1 for event in run.of(StepDone) if "train/loss" not in event.metrics} == set(bad)
    assert run.result.skipped_steps == len(bad)


def poison(folder, text):
    """Make the embedding of a text's first token infinite in the newest checkpoint; the step that it was made at."""
    name, manifest = newest_whole(folder.filesystem, folder.path)
    place, files = Path(folder.path) / name, dict(manifest.files)
    for file in files:
        tensors = load_file(place / file)
        for key in tensors:
            if key.startswith("weight:") and key.endswith("embed_tokens.weight"):
                tensors[key][small_tokenizer().encode(text)[0]] = torch.inf
        files[file] = write_file(folder.filesystem, str(place / file), save(tensors))
    changed = manifest.model_copy(update={"files": files})
    write_file(folder.filesystem, str(place / MANIFEST), changed.model_dump_json().encode())
    return manifest.state.step
