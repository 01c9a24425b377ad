import pytest
import torch

from mtp.train.state import owners
from tests.train.gloo import on_ranks
from tests.train.small import Training


def halfway(folder, options):
    training = Training(2, **options)
    training.steps(range(2))
    training.save(folder)
    return training.steps(range(2, 4)), training.weights(), training.biases()


def resumed(world, folder, options):
    training = Training(world, folder=folder, wrote=2, **options)
    return training.steps(range(2, 4)), training.weights(), training.biases()


EXACT = [{"stage": 1, "expert_parallel": 2}, {"stage": 3, "dtype": "bfloat16"}]


@pytest.mark.parametrize("options", EXACT, ids=str)
def test_a_run_that_resumes_equals_one_that_never_stopped_bit_for_bit(tmp_path, options):
    through, weights, biases = on_ranks(2, halfway, tmp_path, options)[0]
    for again, weights_again, biases_again in on_ranks(2, resumed, 2, tmp_path, options):
        assert [result.loss for result in again] == [result.loss for result in through]
        assert [result.grad_norm for result in again] == [result.grad_norm for result in through]
        torch.testing.assert_close(weights_again, weights, rtol=0, atol=0)
        torch.testing.assert_close(biases_again, biases, rtol=0, atol=0)


def resumed_in_turn(world, folder, several):
    return [resumed(world, folder, options) for options in several]


ELSEWHERE = [
    (2, [{"stage": 1}, {"stage": 3}, {"stage": 0}, {"stage": 2, "offload": {"optimizer": "cpu"}}]),
    (1, [{"stage": 3}]),
    (4, [{"stage": 2, "expert_parallel": 4}, {"stage": 3, "expert_parallel": 2}]),
]


@pytest.mark.slow
def test_a_run_resumes_with_other_workers_zero_stage_and_expert_parallelism(tmp_path):
    through, weights, biases = on_ranks(2, halfway, tmp_path, {"stage": 3, "expert_parallel": 2})[0]
    for world, several in ELSEWHERE:
        for again, weights_again, biases_again in on_ranks(world, resumed_in_turn, world, tmp_path, several)[0]:
            for one, other in zip(again, through, strict=True):
                torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=0)
            torch.testing.assert_close(weights_again, weights, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(biases_again, biases, rtol=0, atol=0)


def test_a_run_resumes_in_one_process_and_another_zero_stage(tmp_path):
    through, *_ = on_ranks(2, halfway, tmp_path, {"stage": 2, "expert_parallel": 2})[0]
    for one, other in zip(on_ranks(1, resumed, 1, tmp_path, {"stage": 3})[0][0], through, strict=True):
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=0)


def test_ranks_share_the_writing_evenly_and_leave_nothing_out():
    sizes = {f"w{number}": number + 1 for number in range(20)}
    owner = owners(sizes, 3)
    loads = [sum(sizes[name] for name, rank in owner.items() if rank == r) for r in range(3)]
    assert sum(loads) == sum(sizes.values())
    assert max(loads) - min(loads) <= 20
