import pytest
import torch

from mtp.config import ObjectiveConfig
from mtp.evaluate.decoding import held_out_prompts, measure_decoding, predicted_speedup
from mtp.objective import MTPObjective
from tests.evaluate.conftest import tiny_model

CYCLE = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.fixture(scope="module")
def model_of_a_cycle():
    """A model that has learnt one endless cycle of eight tokens, horizons 2 to 4 included."""
    model = tiny_model(vocab_size=16).train()
    objective = MTPObjective(ObjectiveConfig(), 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.stack([CYCLE.roll(shift).repeat(4) for shift in range(8)])
    document = torch.zeros_like(tokens, dtype=torch.int32)
    targets = objective.targets(tokens, document)
    for _ in range(60):
        output = objective(
            model(tokens, document), model.heads(), targets, torch.ones(4), objective.denominators(targets)
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return model.eval()


def test_a_model_that_foresees_everything_has_every_draft_accepted(model_of_a_cycle):
    prompts = [CYCLE.roll(shift).repeat(2).tolist() for shift in range(3)]
    # 1 token comes with the prompt; 36 are a multiple of K + 1 for K = 1, 2, 3.
    decoding = measure_decoding(model_of_a_cycle, prompts, new_tokens=37)
    assert decoding.prompts == decoding.identical == 3
    assert decoding.tokens == 3 * 36
    for length in decoding.lengths:
        k = length.num_draft_tokens
        assert length.acceptance == [1.0] * k
        assert length.tokens_per_step == k + 1
        assert length.predicted_speedup == pytest.approx((k + 1) / (1 + k * decoding.draft_cost))
        assert length.measured_speedup > 0


def test_continuations_stop_at_the_end_of_text_and_at_the_models_length(model_of_a_cycle):
    prompt = CYCLE.repeat(2).tolist()
    stopped = measure_decoding(model_of_a_cycle, [prompt], new_tokens=37, eos_ids=(9,))
    assert stopped.tokens == 5  # after 3: 1 4 1 5 9
    full = measure_decoding(model_of_a_cycle, [prompt], new_tokens=1000)
    assert full.tokens == 64 - 16 - 1


def test_predicted_speedup_is_leviathans_formula():
    alpha, k, c = 0.8, 3, 0.1
    expected = (1 - alpha ** (k + 1)) / ((1 - alpha) * (k * c + 1))
    assert predicted_speedup([alpha, alpha**2, alpha**3], c) == pytest.approx(expected)
    assert predicted_speedup([], c) == 1.0


def test_prompts_are_beginnings_of_documents_spread_over_the_rows():
    tokens = torch.arange(40).view(5, 8)
    document = torch.zeros(5, 8, dtype=torch.int32)
    document[2, 3:] = 1
    document[3] = -1
    assert held_out_prompts(tokens, document, count=9, length=4) == [
        [0, 1, 2, 3],
        [8, 9, 10, 11],
        [16, 17, 18],
        [32, 33, 34, 35],
    ]
    assert held_out_prompts(tokens, document, count=2, length=2) == [[0, 1], [32, 33]]
    assert held_out_prompts(tokens, document, count=0, length=2) == []
