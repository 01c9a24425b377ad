"""The number of replicas follows tokens in flight, discounted by tokens a step; the router keeps prefixes together."""

import threading

import httpx
import pytest
from ray.serve.config import AutoscalingContext

from mtp.config import ServeConfig
from mtp.config.serve import AutoscalingConfig
from serve.autoscaling import TokensPolicy, autoscaling_config, wanted_replicas
from serve.prefix_router import BLOCK, PrefixMemory, prefix_keys
from tests.serve.conftest import wait_for


def context(metrics, queued=0.0, state=None, target=1):
    return AutoscalingContext(
        deployment_id=None,
        deployment_name="replica",
        app_name="x",
        current_num_replicas=target,
        target_num_replicas=target,
        running_replicas=[],
        total_num_requests=queued,
        total_queued_requests=queued,
        aggregated_metrics=metrics,
        raw_metrics={},
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=10,
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=None,
    )


def load(tokens, requests=1.0, passes=50.0, per_step=1.0):
    return {
        "tokens_in_flight": {"a": tokens},
        "requests": {"a": requests},
        "passes_per_s": {"a": passes},
        "tokens_per_step": {"a": per_step},
    }


def test_twice_the_tokens_a_step_need_half_the_replicas():
    assert wanted_replicas(400, 100, 2) == 2
    assert wanted_replicas(400, 200, 2) == 1
    policy = TokensPolicy(2)
    assert policy(context(load(800, per_step=1)))[0] == 8
    assert policy(context(load(800, per_step=2)))[0] == 4


def test_requests_that_wait_at_the_gateways_count_as_much_as_those_that_run():
    assert TokensPolicy(2)(context(load(200, requests=2), queued=2))[0] == 4


def test_an_idle_replica_is_not_taken_for_a_slow_one():
    _, state = TokensPolicy(2)(context(load(100)))
    assert TokensPolicy(2)(context(load(200, passes=0.0), state=state))[0] == 3
    assert TokensPolicy(2)(context(load(0, requests=0.0, passes=0.0), state=state))[0] == 0


def test_without_a_policy_the_number_is_fixed_and_each_policy_has_its_configuration():
    assert autoscaling_config(ServeConfig()) is None
    ours = AutoscalingConfig(policy="tokens", min_replicas=0, max_replicas=3)
    found = autoscaling_config(ServeConfig(autoscaling=ours))
    assert (found.min_replicas, found.max_replicas, found.initial_replicas) == (0, 3, 1)
    with pytest.raises(ValueError, match="more than max_replicas"):
        AutoscalingConfig(min_replicas=3, max_replicas=2)


def test_a_prompt_goes_where_its_longest_beginning_went():
    memory = PrefixMemory()
    shared, longer = list(range(BLOCK)), list(range(2 * BLOCK))
    memory.remember(shared, "a")
    memory.remember(longer, "b")
    assert memory.longest([*longer, 7], {"a", "b"}) == "b"
    assert memory.longest([*shared, *[9] * BLOCK], {"a", "b"}) == "b", "the last one who got the beginning"
    assert memory.longest(longer, {"a"}) is None
    assert memory.longest([1, 2], {"a", "b"}) is None
    assert prefix_keys(longer)[0] == prefix_keys(shared)[0]


def test_old_beginnings_are_forgotten():
    memory = PrefixMemory(size=2)
    for start in range(4):
        memory.remember([start] * BLOCK, start)
    assert memory.longest([0] * BLOCK, {0}) is None
    assert memory.longest([3] * BLOCK, {3}) == 3


@pytest.mark.long
def test_replicas_follow_a_burst_up_and_down_to_zero_and_an_idle_model_wakes(endpoint, model_folder, endpoint_keys):
    from ray import serve

    from serve.deploy import current, deploy, undeploy

    scaling = AutoscalingConfig(
        policy="tokens", min_replicas=0, max_replicas=2, target_wait_s=0.05, upscale_delay_s=0.5, downscale_delay_s=3
    )
    config = ServeConfig(
        port=int(endpoint.rpartition(":")[2]),
        num_cpus=0.1,
        max_batch_size=2,
        autoscaling=scaling,
        api_keys=str(endpoint_keys.path),
    )
    deploy(str(model_folder), config, name="scaled")
    app = next(route.app for route in current(config.app_name).routes if route.name == "scaled")

    def replicas():
        return serve.status().applications[app].deployments["replica"].replica_states.get("RUNNING", 0)

    body = {"model": "scaled", "prompt": "x", "max_tokens": 100, "n": 12, "ignore_eos": True}
    burst = threading.Event()

    def ask():
        while not burst.is_set():
            httpx.post(f"{endpoint}/v1/completions", json=body, timeout=120)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        wait_for(lambda: replicas() == 2, seconds=90)
        burst.set()
        for thread in threads:
            thread.join(120)
        wait_for(lambda: replicas() == 0, seconds=120)
        answer = httpx.post(f"{endpoint}/v1/completions", json=body | {"n": 1, "max_tokens": 4}, timeout=120)
        assert answer.status_code == 200
    finally:
        burst.set()
        undeploy(model="scaled")
