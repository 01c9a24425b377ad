"""Metrics reach a real registry, also when it is away for a while; training never waits and never fails."""

import math

import pytest

from cluster.ports import free_ports
from mtp.config import TrackingConfig
from mtp.registry import MetricLogger, send_spooled, start_run
from mtp.registry.connection import client
from mtp.registry.spool import Spool


def history(uri, run_id, name):
    return [(metric.step, metric.value) for metric in client(uri).get_metric_history(run_id, name)]


def test_every_point_arrives_once_and_in_order(tracking):
    run_id = start_run(tracking, "train", {})
    with MetricLogger(tracking.uri, run_id, interval_s=0.05) as logger:
        for step in range(1500):
            logger.log(step, {"train/loss": step / 2, "train/lr": 0.1})
    assert history(tracking.uri, run_id, "train/loss") == [(step, step / 2) for step in range(1500)]
    assert len(history(tracking.uri, run_id, "train/lr")) == 1500


def test_a_value_that_is_not_finite_is_kept(tracking):
    run_id = start_run(tracking, "train", {})
    with MetricLogger(tracking.uri, run_id) as logger:
        logger.log(1, {"train/loss": math.nan})
        logger.log(2, {"train/loss": 1.0})
    (_, first), (_, second) = history(tracking.uri, run_id, "train/loss")
    assert math.isnan(first) and second == 1.0


def test_a_resumed_run_does_not_repeat_steps(tracking):
    run_id = start_run(tracking, "train", {})
    with MetricLogger(tracking.uri, run_id) as logger:
        for step in range(10):
            logger.log(step, {"train/loss": step})
    with MetricLogger(tracking.uri, run_id, resumed=True) as logger:
        for step in range(6, 14):
            logger.log(step, {"train/loss": step, "train/new": step})
    assert history(tracking.uri, run_id, "train/loss") == [(step, step) for step in range(14)]
    assert history(tracking.uri, run_id, "train/new") == [(step, step) for step in range(6, 14)]


def test_a_logger_is_ready_when_the_registry_answered_and_when_it_did_not(tracking, own_home):
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    for uri, answers in ((tracking.uri, True), (dead, False)):
        logger = MetricLogger(uri, start_run(tracking, "train", {}))
        logger.ready()
        logger.log(1, {"train/loss": 1.0})
        assert logger.close() is answers


@pytest.mark.slow
def test_a_registry_that_goes_away_and_comes_back_misses_nothing(own_home, second_server, capfd):
    port = free_ports(1)[0]
    with second_server(own_home, port) as url:
        going_on, finished, resumed = (start_run(TrackingConfig(uri=url), "train", {}) for _ in range(3))
        logger = MetricLogger(url, going_on, interval_s=0.05)
        logger.log(0, {"train/loss": 0})
        assert logger.flush()

    for step in range(1, 50):
        logger.log(step, {"train/loss": step})
    assert not logger.flush()
    for run_id in (finished, resumed):
        with MetricLogger(url, run_id, interval_s=0.05) as earlier:
            for step in range(10):
                earlier.log(step, {"train/loss": step})
    later = MetricLogger(url, resumed, resumed=True, interval_s=0.05)
    for step in range(5, 15):  # from the checkpoint of step 4
        later.log(step, {"train/loss": step})
    assert not later.flush()
    assert capfd.readouterr().err.count(f"run {going_on} go to disk for now") == 1

    with second_server(own_home, port) as url:
        logger.log(50, {"train/loss": 50})
        assert logger.close(timeout_s=30) and later.close(timeout_s=30)
        assert history(url, going_on, "train/loss") == [(step, step) for step in range(51)]
        assert history(url, resumed, "train/loss") == [(step, step) for step in range(15)]
        assert send_spooled(url) == 10
        assert history(url, finished, "train/loss") == [(step, step) for step in range(10)]
        assert send_spooled(url) == 0


def test_logging_to_a_run_that_was_deleted_does_not_raise(tracking):
    logger = MetricLogger(tracking.uri, "0" * 32, interval_s=0.05)
    logger.log(1, {"train/loss": 1.0})
    assert not logger.close(timeout_s=20)
    Spool(tracking.uri, "0" * 32).clear()
