"""What the prefix router brings, by the engines' own count of what they found in their caches."""

import pytest

from mtp.config import ServeConfig
from tests.serve.conftest import value_of, wait_for

FAMILIES, EACH = 6, 5
"""Prompts with one beginning of four blocks, and so many of each."""
BLOCKS, LOOKAHEAD = 4, 3
"""What a block's modules hold depends on so many tokens behind it."""
TOKENS = 4
SHARE = 0.8
"""Of the beginnings that can be found again: Ray Serve goes to another replica when one is slow to tell its queue."""


@pytest.mark.long
def test_beginnings_are_found_again_with_the_router_and_less_often_without_it(
    endpoint, endpoint_keys, model_folder, client
):
    with_router = hits_and_queries(endpoint, endpoint_keys, model_folder, client, prefix_routing=True)
    without = hits_and_queries(endpoint, endpoint_keys, model_folder, client, prefix_routing=False)
    print(f"\nhit rate with the router {with_router[0]}/{with_router[1]}, without it {without[0]}/{without[1]}")
    assert with_router[0] >= SHARE * FAMILIES * (EACH - 1) * BLOCKS
    assert without[0] < with_router[0]


def hits_and_queries(endpoint, keys, folder, client, prefix_routing):
    """Of a model on two replicas, after all families have been asked for in turn."""
    from serve.deploy import deploy, undeploy

    name = f"routed-{prefix_routing}"
    config = ServeConfig(
        port=int(endpoint.rpartition(":")[2]),
        num_replicas=2,
        num_cpus=0.1,
        prefix_routing=prefix_routing,
        api_keys=str(keys.path),
    )
    deploy(str(folder), config, name=name)
    try:
        for number in range(EACH):
            for family in range(FAMILIES):
                prompt = [40 + family] * (16 * BLOCKS + LOOKAHEAD) + [60 + number] * 4
                body = {"model": name, "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True}
                client.post("/v1/completions", json=body).raise_for_status()

        def counted(metric):
            return value_of(client.get("/metrics").text, f"mtp_{metric}_total", f'model_name="{name}"')

        wait_for(lambda: counted("generation_tokens") == EACH * FAMILIES * TOKENS)
        return int(counted("prefix_cache_hits")), int(counted("prefix_cache_queries"))
    finally:
        undeploy(model=name)
