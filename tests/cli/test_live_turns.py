"""A training and a peer's loop that step by turns: who stands still when, what is counted, how a peer ends."""

import os
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from mtp.cli.bench.live_turns import LiveTurns, Peer, steps_of
from mtp.config import build_config
from mtp.errors import MTPError
from mtp.train.events import Notice, StepDone, WorkerReady


def config(steps_file="unused"):
    values = {
        "data": {"path": str(steps_file), "vocab_size": 300, "seq_len": 32},
        "model": {"vocab_size": 300},
        "train": {"steps": 12, "minutes": None, "batch_size": 2, "log_every": 3, "run_name": "turns"},
    }
    return build_config(values)


def endless(config, threads, before_step):
    """Writes a byte for every step."""
    while True:
        before_step()
        with Path(config.data.path).open("a") as steps:
            steps.write(".")


def broken(config, threads, before_step):
    before_step()
    raise RuntimeError("the model is too large")


def ready(pid, node=None):
    return WorkerReady(0, 1, node or socket.gethostname(), pid, "gloo", "0.19.8", 0, "float32", "cpu", 1, 2)


def done(step, rate):
    return StepDone(step, 12, {"train/tokens_per_s": rate}, 0.0)


def stands_still(pid):
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def becomes(condition):
    """A signal is delivered when the process is next scheduled."""
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


class Onlooker:
    """In a peer's place: sees whether the worker stands still."""

    def __init__(self, worker):
        self.worker, self.seen = worker, []

    def turn(self):
        self.seen.append(becomes(lambda: stands_still(self.worker)))
        return 7.0


def test_the_worker_stands_still_during_a_peers_turn_and_goes_on_after_it():
    worker = subprocess.Popen(["sleep", "600"])
    try:
        onlooker = Onlooker(worker.pid)
        turns = LiveTurns(onlooker)
        turns.take(ready(worker.pid))
        for step, rate in ((3, 1.0), (6, 2.0), (9, 3.0), (12, 4.0)):
            turns.take(done(step, rate))
            turns.take(Notice("no interval"))
            assert becomes(lambda: not stands_still(worker.pid))
        assert onlooker.seen == [True, True]
        assert (turns.ours, turns.theirs) == ([2.0, 4.0], [7.0, 7.0])
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()


def test_a_peer_takes_the_steps_of_its_turns_and_no_others(tmp_path):
    done, chosen = tmp_path / "steps", config(tmp_path / "steps")
    with closing(Peer(endless, chosen, 1)) as peer:
        assert not done.exists()  # it is built, and waits
        for turn in (1, 2, 3):
            assert peer.turn() > 0
            assert len(done.read_text()) == steps_of(turn, chosen.train.log_every) == 6 * turn
    assert len(done.read_text()) == 18


def test_a_peer_that_fails_ends_the_benchmark_in_a_sentence():
    with closing(Peer(broken, config(), 1)) as peer, pytest.raises(MTPError, match="'broken' ended by itself"):
        peer.turn()


def test_a_worker_of_another_machine_is_refused_and_no_process_of_this_one_is_stopped():
    worker = subprocess.Popen(["sleep", "600"])
    try:
        turns = LiveTurns(Onlooker(worker.pid))
        with pytest.raises(MTPError, match="runs on far-away"):
            turns.take(ready(worker.pid, "far-away"))
        assert not stands_still(worker.pid)
    finally:
        worker.kill()
        worker.wait()
