import torch

from mtp.compare.divergence import RULES

P = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
Q = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)


def test_exact_acceptance_emits_the_models_own_distribution():
    torch.testing.assert_close(RULES["exact"](P, Q), P)
    torch.testing.assert_close(RULES["exact"](P, P), P)


def test_unverified_drafts_emit_the_drafts_distribution():
    assert RULES["parallel"](P, Q) is Q


def test_a_threshold_keeps_drafts_above_it_and_draws_the_others_again():
    # tau 0.1: drafts 0, 1, 2 stand (0.6 of q), 0.4 of the time p is drawn.
    torch.testing.assert_close(RULES["threshold"](P, Q), torch.tensor([[0.1, 0.2, 0.3, 0.0]]).double() + 0.4 * P)


def test_every_rule_emits_a_distribution():
    p, q = torch.softmax(torch.randn(2, 50, 20, dtype=torch.float64), dim=-1)
    for rule in RULES.values():
        torch.testing.assert_close(rule(p, q).sum(-1), torch.ones(50, dtype=torch.float64))
