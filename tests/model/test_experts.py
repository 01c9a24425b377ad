import pytest
import torch

from mtp.model import MTPModel, load_violation
from mtp.model.experts import Experts
from mtp.model.gate import Gate, sequence_balance, updated_bias
from mtp.model.moe import MoE
from tests.model.configurations import small


def gate_of(**changes):
    torch.manual_seed(0)
    gate = Gate(small(**changes))
    torch.nn.init.normal_(gate.weight, std=0.3)
    return gate


def test_grouped_and_looped_experts_agree_in_value_and_gradient():
    torch.manual_seed(0)
    experts = Experts(small())
    for weight in experts.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    counts = torch.tensor([3, 0, 5, 0, 0, 1, 7, 0])
    x = torch.randn(16, 32, requires_grad=True)
    inputs = (x, *experts.parameters())
    grouped, looped = experts._grouped(x, counts), experts._looped(x, counts)
    torch.testing.assert_close(grouped, looped)
    upstream = torch.randn_like(grouped)
    for a, b in zip(
        torch.autograd.grad(grouped, inputs, upstream), torch.autograd.grad(looped, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_moe_layer_is_the_weighted_sum_of_each_tokens_experts():
    torch.manual_seed(0)
    moe = MTPModel(small(moe_intermediate_size=10)).expert_layers()[0]
    x = torch.randn(2, 5, 32)
    chosen, weights, _ = moe.gate(x.flatten(0, 1))
    expected = moe.shared_experts(x).flatten(0, 1)
    for token, row in enumerate(x.flatten(0, 1)):
        for expert, weight in zip(chosen[token], weights[token], strict=True):
            gate, up = (moe.experts.gate_up_proj[expert] @ row).chunk(2)
            hidden = torch.nn.functional.silu(gate) * up
            expected[token] += weight * (moe.experts.down_proj[expert] @ hidden)
    torch.testing.assert_close(moe(x).flatten(0, 1), expected)


def test_every_expert_gets_a_gradient_even_without_tokens():
    moe = MTPModel(small()).expert_layers()[0].train()
    moe(torch.randn(1, 1, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in moe.parameters())
    busy = moe.tokens_per_expert > 0
    assert busy.sum() == 2
    assert (moe.experts.down_proj.grad.abs().sum((1, 2)) > 0).tolist() == busy.tolist()


def test_the_bias_chooses_and_the_unbiased_score_weighs():
    gate = gate_of(n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0)
    gate.e_score_correction_bias[5] = 10.0
    chosen, weights, scores = gate(torch.randn(20, 32))
    assert (chosen == 5).any(1).all()
    torch.testing.assert_close(weights, scores.gather(1, chosen))


def test_experts_come_from_the_groups_whose_two_best_sum_highest():
    gate = gate_of()
    x = torch.randn(50, 32)
    chosen, _, scores = gate(x)
    sums = scores.view(50, 4, 2).sum(-1)
    allowed = sums.topk(2).indices
    assert all(set((row // 2).tolist()) <= set(best.tolist()) for row, best in zip(chosen, allowed, strict=True))


def test_scores_are_computed_in_fp32_whatever_the_models_dtype():
    gate = gate_of()
    x = torch.randn(4, 32).bfloat16()
    low = Gate(small()).bfloat16()
    low.weight.data = gate.weight.data.bfloat16()
    assert low(x)[1].dtype == torch.float32
    expected = torch.sigmoid(x.float() @ low.weight.float().T)
    torch.testing.assert_close(low(x)[2], expected)


def test_the_bias_moves_against_the_load_by_the_speed():
    moved = updated_bias(torch.tensor([0.5, 0.0, 0.0, 0.0]), torch.tensor([7, 4, 1, 4]), 0.01)
    torch.testing.assert_close(moved, torch.tensor([0.49, 0.0, 0.01, 0.0]))


def test_updating_the_bias_lowers_the_load_violation_on_a_skewed_stream():
    torch.manual_seed(0)
    moe = MoE(small(n_group=1, topk_group=1, hidden_size=16)).train()
    torch.nn.init.normal_(moe.gate.weight, std=0.3)
    for weight in moe.experts.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    skew = 2 * torch.randn(16)
    violations = []
    for _ in range(300):
        moe.reset_counts()
        moe(torch.randn(4, 32, 16) + skew)
        violations.append(load_violation(moe.tokens_per_expert))
        moe.update_expert_bias(moe.tokens_per_expert, 0.01)
    assert violations[0] > 1.0
    assert sum(violations[-20:]) / 20 < 0.3 * violations[0]


def test_counts_add_up_over_training_forwards_only_and_are_not_stored():
    moe = MTPModel(small()).expert_layers()[0]
    x = torch.randn(2, 7, 32)
    moe.train()
    moe(x)
    moe(x)
    with torch.no_grad():
        moe(x)
    moe.eval()
    moe(x)
    assert moe.tokens_per_expert.sum() == 2 * 14 * 2
    moe.reset_counts()
    assert moe.tokens_per_expert.sum() == 0
    assert "tokens_per_expert" not in moe.state_dict()
    assert "gate.e_score_correction_bias" in moe.state_dict()


def test_sequence_balance_is_one_when_balanced_and_equals_the_double_loop():
    chosen = torch.tensor([[[0, 1], [2, 3]]])
    torch.testing.assert_close(sequence_balance(torch.full((1, 2, 4), 0.5), chosen), torch.tensor(1.0))
    torch.manual_seed(0)
    scores = torch.rand(3, 6, 8)
    chosen = scores.topk(2).indices
    rows = []
    for row in range(3):
        total = 0.0
        for expert in range(8):
            frequency = 8 / (2 * 6) * (chosen[row] == expert).sum()
            total += frequency * (scores[row, :, expert] / scores[row].sum(-1)).mean()
        rows.append(total)
    torch.testing.assert_close(sequence_balance(scores, chosen), torch.stack(rows).mean())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_models_balance_loss_reaches_the_gates(checkpointed):
    model = MTPModel(small()).train()
    model.checkpoint_activations(checkpointed)
    model.record_balance()
    model(torch.randint(0, 97, (2, 9)))
    model.balance_loss().backward()
    assert all(layer.gate.weight.grad.abs().sum() > 0 for layer in model.expert_layers())
