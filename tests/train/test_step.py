import pytest
import torch

from tests.train.gloo import on_ranks
from tests.train.small import Training

STEPS = 3


def run(world, combinations):
    outcomes = []
    for stage, accumulation, experts in combinations:
        training = Training(world, stage, accumulation, experts)
        outcomes.append((training.steps(range(STEPS)), training.weights(), training.biases()))
    return outcomes


def assert_same(got, expected):
    for one, other in zip(got[0], expected[0], strict=True):
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(one.grad_norm, other.grad_norm, rtol=1e-5, atol=0)
        torch.testing.assert_close(one.sums, other.sums, rtol=1e-5, atol=1e-6)
        assert one.tokens == other.tokens
    torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[2], expected[2])


def assert_two_workers_equal_one(combinations):
    kinds = sorted({experts for _, _, experts in combinations})
    ((alone),) = on_ranks(1, run, 1, [(1, 1, experts) for experts in kinds])
    expected = dict(zip(kinds, alone, strict=True))
    for rank in on_ranks(2, run, 2, combinations):
        for (_, _, experts), got in zip(combinations, rank, strict=True):
            assert_same(got, expected[experts])


def test_two_workers_equal_one_process_on_the_same_global_batch():
    assert_two_workers_equal_one([(1, 1, 4), (3, 2, 4)])


@pytest.mark.slow
def test_every_zero_stage_and_accumulation_equals_one_process():
    assert_two_workers_equal_one(
        [(stage, accumulation, experts) for stage in range(4) for accumulation in (1, 2) for experts in (0, 4)]
    )


def frozen_backbone(stage):
    training = Training(2, stage, objective={"detach_backbone": True})
    before = training.weights()
    training.steps(range(2))
    after = training.weights()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("stage", [1, 3])
def test_a_detached_backbone_is_not_even_decayed(stage):
    changed = on_ranks(2, frozen_backbone, stage)[0]
    assert changed
    assert all(name.startswith("model.prediction.") for name in changed)
