import pytest
import torch

from mtp.objective import expected_tokens_per_step, horizon_metrics
from mtp.objective.metrics import conditional_rates


def test_the_seed_texts_rates_give_2_036_tokens_a_step_and_not_1_74():
    assert expected_tokens_per_step([0.7, 0.4, 0.2]) == pytest.approx(2.036)


def test_conditional_rates_are_quotients_of_whole_drafts():
    rates = conditional_rates([0.7, 0.28, 0.056])
    assert rates == pytest.approx([0.7, 0.4, 0.2])
    assert conditional_rates([0.0, 0.0]) == [0.0, 0.0]


def test_metrics_are_quotients_of_sums():
    sums = torch.tensor([[8.0, 3.0], [4.0, 2.0], [4.0, 2.0], [1.0, 1.0], [4.0, 1.0], [4.0, 1.0]])
    assert horizon_metrics(sums) == {
        "loss_h1": 2.0,
        "loss_h2": 1.5,
        "top1_h1": 0.25,
        "top1_h2": 0.5,
        "agreement_h2": 0.5,
        "predicted_tokens_per_step": 1.5,
    }


def test_a_horizon_without_a_position_reports_zero():
    metrics = horizon_metrics(torch.zeros(6, 2))
    assert metrics["loss_h2"] == 0.0
    assert metrics["predicted_tokens_per_step"] == 1.0


def test_predicted_tokens_per_step_uses_whole_drafts_and_not_the_product_of_marginals():
    # Two slots; horizon 2 agrees at the first only, horizon 3 at the second only: no draft of two is ever accepted.
    sums = torch.tensor([[0.0] * 3, [2.0] * 3, [2.0] * 3, [0.0] * 3, [2.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    assert horizon_metrics(sums)["predicted_tokens_per_step"] == 1.5
