"""Trainings through Ray Train on the session's cluster: a small model, a checkpoint every four steps."""

import os
from pathlib import Path

from mtp.config import TrackingConfig, build_config
from mtp.registry import start_run
from mtp.train import fit
from mtp.train.events import StepDone
from tests.train.small import SIZES

STEPS = 40


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


class Run:
    """One fit with what it told."""

    def __init__(self, config, uri, on_event=lambda event: None):
        self.events = []
        self.uri = uri
        self.on_event = on_event
        self.run_id = new_run(uri)
        self.result = fit(config, run_id=self.run_id, tracking_uri=uri, on_progress=self.take)

    def take(self, event):
        self.events.append(event)
        self.on_event(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def losses(self):
        return {event.step: event.metrics["train/loss"] for event in self.of(StepDone)}


def new_run(uri):
    return start_run(TrackingConfig(uri=uri), "test", {})


def worker_processes():
    """The Ray Train workers of this session's clusters: found by title, and by our state folder in the environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in title and os.environ["MTP_HOME"].encode() in environment:
            found.append(int(entry.name))
    assert found, "no training worker found"
    return sorted(found)
