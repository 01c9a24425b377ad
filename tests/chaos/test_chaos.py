"""Faults in a seeded order over a training and a loaded endpoint at once: what was promised still holds.

CI runs the short form. `CHAOS_SEED=7 python -m pytest -s -m chaos tests/chaos` runs the long one too, by another seed,
and prints what was done to whom.
"""

import os
import random
import time

import pytest

from mtp.errors import MTPError
from mtp.registry import fetch_model, register_model, versions
from mtp.train.events import Notice, Planned, StepDone
from tests.chaos.cable import Cable
from tests.chaos.clock import node_with_a_fast_clock
from tests.chaos.faults import processes, schedule
from tests.chaos.footprint import left_over
from tests.chaos.keeper import Keeper
from tests.chaos.node import FurtherNode
from tests.serve.conftest import wait_for
from tests.serve.load import Load
from tests.serve.test_rollout import replica_pids
from tests.train.fits import new_run, worker_processes

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
SEED = int(os.environ.get("CHAOS_SEED", "0"))
LONG_STEPS = 300


def assert_whole(scene, outcome):
    """Training and endpoint came through, and nothing has grown."""
    scene.assert_same_training(outcome.run)
    assert outcome.load.faults == [] and len(set(outcome.load.texts)) == 1
    assert outcome.grown == []


def test_a_training_and_an_endpoint_come_through_a_killed_worker_a_killed_replica_and_a_lost_registry(scene):
    faults = schedule(SEED, 120, ["cut_registry", "kill_replica", "corrupt_checkpoint"])
    outcome = scene.disturbed("short", SEED, faults, width=2)
    assert_whole(scene, outcome)
    assert len(outcome.run.of(Planned)) == 2


def test_a_registry_lost_in_the_middle_of_a_registration_has_whole_versions_alone(scene):
    folder = scene.calm.result.model_dir
    with Cable(scene.state.mlflow_url) as cable:
        run_id = new_run(scene.state.mlflow_url)
        chance, refused = random.Random(SEED), 0
        for _ in range(4):
            cable.mend()
            cable.cut(after_bytes=chance.randrange(2_000, 600_000))
            try:
                register_model(run_id, folder, "chaos", uri=cable.url)
            except MTPError:
                refused += 1
        cable.mend()
        assert refused
        newest = register_model(run_id, folder, "chaos", uri=cable.url)
        found = versions("chaos", uri=cable.url)
        assert found[0].version == newest
        for version in found:
            fetch_model(f"models:/chaos/{version.version}", cable.url)


def test_when_all_is_over_no_process_is_left(scene):
    """The endpoint still serves, so its replicas are the only ones that may be there."""
    deadline = time.monotonic() + 60
    while any("ServeReplica" not in title for title in left_over(scene.state)) and time.monotonic() < deadline:
        time.sleep(1)
    left = [title for title in left_over(scene.state) if "ServeReplica" not in title]
    replicas = [title for title in left_over(scene.state) if ":replica" in title]
    assert left == [] and len(replicas) == 2


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_long_training_comes_through_every_fault_in_any_order(scene):
    names = ["kill_worker", "kill_replica", "cut_registry", "mend_registry", "corrupt_checkpoint", "fill_disk"]
    faults = schedule(SEED, LONG_STEPS, [*names, "free_disk", "kill_worker", "kill_replica"])
    print(faults)
    calm = scene.train("calm-long", steps=LONG_STEPS)
    outcome = scene.disturbed("long", SEED, faults, width=4, steps=LONG_STEPS)
    assert outcome.run.losses() == calm.losses()
    assert outcome.load.faults == [] and len(set(outcome.load.texts)) == 1
    assert outcome.grown == []
    if any(line.startswith("fill_disk") for line in outcome.done):
        print([event.text for event in outcome.run.of(Notice)])


@pytest.mark.long
def test_requests_that_a_killed_proxy_cuts_fail_at_once_and_later_ones_come_whole(scene):
    began = time.monotonic()
    outcome = scene.disturbed("proxy", SEED, schedule(SEED, 120, ["kill_proxy"]), width=4)
    scene.assert_same_training(outcome.run)
    assert outcome.load.faults and not any("Timeout" in fault for fault in outcome.load.faults)
    assert len(set(outcome.load.texts)) == 1
    print(f"{len(outcome.load.faults)} failed of {len(outcome.load.texts)} in {time.monotonic() - began:.0f} s")


@pytest.mark.long
def test_a_training_and_an_endpoint_come_through_the_loss_of_the_gcs_and_of_its_redis(scene, redis):
    if redis is None:
        pytest.skip("the GCS of this session keeps its state in memory: set MTP_TEST_REDIS=1 (redis-server is needed)")
    faults = schedule(SEED, 120, ["kill_gcs", "kill_redis", "kill_replica", "kill_gcs"])
    with Keeper(scene.state, redis) as keeper:
        outcome = scene.disturbed("gcs", SEED, faults, width=4, keeper=keeper)
        assert_whole(scene, outcome)
        wait_for(keeper.whole, seconds=60)
        wait_for(lambda: len(processes(scene.state, ":replica")) == 2, seconds=120)
    print(f"started again: {keeper.restarts}")
    assert keeper.restarts.count("gcs") >= 2 and "redis" in keeper.restarts


@pytest.mark.long
def test_a_node_whose_clock_is_hours_fast_trains_and_serves_like_any_other(scene):
    workers = set()

    def on_event(event):
        if isinstance(event, StepDone) and not workers:
            workers.update(set(worker_processes()) & node.pids())

    with node_with_a_fast_clock(cpus=3) as node, scene.model("early", num_cpus=0.9):
        replicas = set(replica_pids("early")) & node.pids()
        with Load(scene.url, "early", 4, max_tokens=24) as load:
            run = scene.train("early", on_event=on_event, cpus_per_worker=2)
    assert len(replicas) == 1 and len(workers) == 1, "the clock concerned nobody"
    scene.assert_same_training(run)
    assert load.faults == [] and len(set(load.texts)) == 1


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_training_and_an_endpoint_come_through_the_loss_of_a_node_whose_place_another_takes(scene):
    """Neither node has room for both workers or both replicas, so one of each is on the node that goes."""
    faults = schedule(SEED, 120, ["lose_node", "kill_replica", "kill_worker"])
    with FurtherNode(cpus=3) as node, scene.model("spread", num_cpus=2):
        assert len(set(replica_pids("spread")) & node.pids()) == 1
        outcome = scene.disturbed("spread", SEED, faults, width=2, model="spread", node=node)
        assert_whole(scene, outcome)
        wait_for(lambda: len(replica_pids("spread")) == 2, seconds=120)
