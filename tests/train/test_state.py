import pytest
import torch

from mtp.train.state import owners
from tests.train.gloo import on_ranks
from tests.train.small import Training


def saved_halfway(folder, stage, dtype):
    training = Training(2, stage, dtype=dtype)
    training.steps(range(2))
    training.save(folder)
    return training.steps(range(2, 4)), training.weights(), training.biases()


def resumed(world, folder, stage, dtype):
    training = Training(world, stage, folder=folder, wrote=2, dtype=dtype)
    return training.steps(range(2, 4)), training.weights(), training.biases()


@pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_a_run_that_resumes_equals_one_that_never_stopped_bit_for_bit(tmp_path, stage, dtype):
    through, weights, biases = on_ranks(2, saved_halfway, tmp_path, stage, dtype)[0]
    for again, weights_again, biases_again in on_ranks(2, resumed, 2, tmp_path, stage, dtype):
        assert [result.loss for result in again] == [result.loss for result in through]
        assert [result.grad_norm for result in again] == [result.grad_norm for result in through]
        torch.testing.assert_close(weights_again, weights, rtol=0, atol=0)
        torch.testing.assert_close(biases_again, biases, rtol=0, atol=0)


@pytest.mark.parametrize(("world", "stage"), [(1, 3), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_a_run_resumes_with_another_number_of_workers_and_zero_stage(tmp_path, world, stage):
    through, *_ = on_ranks(2, saved_halfway, tmp_path, 1, "float32")[0]
    for again, *_ in on_ranks(world, resumed, world, tmp_path, stage, "float32"):
        for one, other in zip(again, through, strict=True):
            torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=0)


def test_ranks_share_the_writing_evenly_and_leave_nothing_out():
    sizes = {f"w{number}": number + 1 for number in range(20)}
    owner = owners(sizes, 3)
    loads = [sum(sizes[name] for name, rank in owner.items() if rank == r) for r in range(3)]
    assert sum(loads) == sum(sizes.values())
    assert max(loads) - min(loads) <= 20
