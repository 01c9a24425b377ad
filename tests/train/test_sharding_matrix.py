"""Every way to shard gives the training of one process on the same global batch.

One process and one pair of them run all combinations of a test, one after the other.
"""

from functools import cache

import pytest
import torch

from tests.train.gloo import on_ranks
from tests.train.small import Training

LR = 1e-3
"""At ten times this rate 20 steps carry the gradient's norm beyond 1e-5, at stage 0 already, which shards nothing."""
TIED = {"tie_word_embeddings": True}
GROUPED = {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 0}


def run(world, steps, combinations):
    outcomes = []
    for options in combinations:
        training = Training(world, **options)
        outcomes.append((training.steps(range(steps), LR), training.weights(), training.biases()))
    return outcomes


@cache
def of_one_process(steps, experts, model):
    return on_ranks(1, run, 1, steps, [{"experts": experts, "model": dict(model)}])[0][0]


def alone(steps, options):
    """What one process does with the same model."""
    return of_one_process(steps, options.get("experts", 4), tuple(options.get("model", {}).items()))


def assert_equal_one_process(steps, combinations, world=2):
    expected = [alone(steps, options) for options in combinations]
    for rank in on_ranks(world, run, world, steps, combinations):
        for options, got, reference in zip(combinations, rank, expected, strict=True):
            assert_same(got, reference, options)


def assert_same(got, reference, options):
    def close(one, other, atol=0.0):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=atol, msg=lambda text: f"{options}: {text}")

    for one, other in zip(got[0], reference[0], strict=True):
        close(one.loss, other.loss)
        close(one.grad_norm, other.grad_norm)
        close(one.sums, other.sums, atol=1e-6)
        assert one.tokens == other.tokens
        assert one.violation == other.violation
    assert got[1].keys() == reference[1].keys()
    for name, weight in reference[1].items():
        difference = float((got[1][name] - weight).norm())
        assert difference <= 1e-5 * float(weight.norm()), (options, name, difference)
    assert all(torch.equal(one, other) for one, other in zip(got[2], reference[2], strict=True)), options


def test_two_workers_equal_one_process():
    everything = {"optimizer": "cpu", "parameters": "cpu"}
    assert_equal_one_process(
        3,
        [
            {"stage": 2, "accumulation": 2},
            {"stage": 1, "expert_parallel": 2},
            {"stage": 3, "expert_parallel": 2, "accumulation": 2, "model": TIED, "offload": everything},
        ],
    )


@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_expert_parallelism_and_accumulation_equals_one_process(stage):
    assert_equal_one_process(
        20,
        [
            {"stage": stage, "accumulation": accumulation, "experts": experts, "expert_parallel": parallel}
            for accumulation in (1, 2)
            for experts, parallel in ((0, 1), (4, 1), (4, 2))
        ],
    )


@pytest.mark.long
def test_tied_embeddings_group_routing_and_offload_equal_one_process():
    assert_equal_one_process(
        3,
        [
            {"stage": 3, "model": TIED},
            {"stage": 1, "model": GROUPED, "expert_parallel": 2},
            {"stage": 1, "offload": {"optimizer": "cpu"}},
            {"stage": 2, "expert_parallel": 2, "offload": {"optimizer": "cpu"}},
            {"stage": 3, "offload": {"parameters": "cpu"}, "accumulation": 2},
        ],
    )


@pytest.mark.long
def test_four_workers_in_two_sets_of_experts_equal_one_process():
    assert_equal_one_process(6, [{"stage": stage, "expert_parallel": 2} for stage in range(4)], world=4)


def test_recomputed_activations_change_no_bit_and_count_no_token_twice():
    options = [{"stage": stage, "expert_parallel": parallel} for stage, parallel in ((1, 1), (3, 2))]
    kept = on_ranks(2, run, 2, 2, options)
    again = on_ranks(2, run, 2, 2, [{**one, "activation_checkpointing": True} for one in options])
    for rank, recomputed in zip(kept, again, strict=True):
        for one, other in zip(rank, recomputed, strict=True):
            assert [step.loss for step in one[0]] == [step.loss for step in other[0]]
            assert [step.grad_norm for step in one[0]] == [step.grad_norm for step in other[0]]
            assert [step.violation for step in one[0]] == [step.violation for step in other[0]]
            assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
            assert all(torch.equal(bias, again) for bias, again in zip(one[2], other[2], strict=True))


def counted(stage, parallel):
    counts = []
    for checkpointing in (False, True):
        training = Training(2, stage, expert_parallel=parallel, activation_checkpointing=checkpointing)
        taken = []
        update = training.experts.update
        training.experts.update = lambda loads, update=update, taken=taken: (taken.append(loads.clone()), update(loads))
        training.steps(range(1))
        counts.append(taken[0])
    return counts


@pytest.mark.parametrize(("stage", "parallel"), [(1, 1), (1, 2)])
def test_each_token_is_counted_once_for_each_of_its_experts(stage, parallel):
    kept, recomputed = on_ranks(2, counted, stage, parallel)[0]
    assert torch.equal(kept, recomputed)
    assert float(kept.sum()) == 8 * 24 * 2 * (1 + 2)  # rows x length x experts a token x MoE layers


def of_precision(combinations):
    return [
        run(2, 4, [{"dtype": dtype, **options}])[0] for options in combinations for dtype in ("float32", "bfloat16")
    ]


@pytest.mark.long
def test_bfloat16_follows_float32_at_every_stage_that_takes_it():
    combinations = [
        {"stage": stage, "accumulation": accumulation, "expert_parallel": parallel}
        for stage in (1, 2, 3)
        for accumulation in (1, 2)
        for parallel in (1, 2)
    ]
    outcomes = on_ranks(2, of_precision, combinations)[0]
    for options, single, half in zip(combinations, outcomes[::2], outcomes[1::2], strict=True):
        for one, other in zip(single[0], half[0], strict=True):
            torch.testing.assert_close(
                other.loss, one.loss, rtol=0.02, atol=0, msg=lambda text, o=options: f"{o} {text}"
            )
            assert other.applied
        assert all(weight.dtype == torch.float32 for weight in half[1].values())
        assert all(bias.dtype == torch.float32 for bias in half[2])
