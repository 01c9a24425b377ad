import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtp.config import ObjectiveConfig
from mtp.objective import SUMS, MTPObjective, lambdas_at
from tests.objective.reference import reference_denominators, reference_objective
from tests.objective.strategies import VOCABULARY, batches

WIDTH = 5


def model_outputs(n, rows, length, *, shared=True, seed=0, dtype=torch.float32):
    """(hiddens, heads) as a model of n horizons would return them."""
    generator = torch.Generator().manual_seed(seed)
    hiddens = [torch.randn(rows, length, WIDTH, generator=generator, dtype=dtype) for _ in range(n)]
    heads = [torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=dtype) for _ in range(1 if shared else n)]
    for tensor in (*hiddens, *heads):
        tensor.requires_grad_()
    return hiddens, heads * n if shared else heads


def leaves(hiddens, heads):
    return [*hiddens, *dict.fromkeys(heads)]


@given(
    batch=batches(),
    data=st.data(),
    chunk_size=st.integers(1, 30),
    shared=st.booleans(),
    weighted=st.booleans(),
    reduction=st.sampled_from(["mean", "paper"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_loss_gradients_and_metrics_equal_the_double_loop(batch, data, chunk_size, shared, weighted, reduction, seed):
    tokens, document, mask = batch
    n = data.draw(st.integers(1, min(4, tokens.shape[1])))
    lambdas = [1.0, *data.draw(st.lists(st.floats(0, 2), min_size=n - 1, max_size=n - 1))]
    token_weights = torch.linspace(0.1, 3.0, VOCABULARY) if weighted else None
    hiddens, heads = model_outputs(n, *tokens.shape, shared=shared, seed=seed)
    objective = MTPObjective(ObjectiveConfig(chunk_size=chunk_size, reduction=reduction), n, token_weights)
    targets = objective.targets(tokens, document, mask)
    denominators = objective.denominators(targets)
    out = objective(hiddens, heads, targets, torch.tensor(lambdas), denominators)

    rows = (tokens.tolist(), document.tolist(), mask.tolist(), token_weights)
    assert denominators.tolist() == pytest.approx(reference_denominators(*rows, n, reduction), rel=1e-6)
    expected = reference_objective(hiddens, heads, *rows, lambdas, denominators.tolist())
    assert out.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5, abs=1e-7)
    assert out.loss_sums.tolist() == pytest.approx(expected.loss_sums, rel=1e-5, abs=1e-6)
    assert out.weight_sums.tolist() == pytest.approx(expected.weight_sums, rel=1e-5)
    for name in ("counts", "correct", "agree", "accepted"):
        assert getattr(out, name).tolist() == getattr(expected, name), name
    gradients = torch.autograd.grad(out.loss, leaves(hiddens, heads))
    if not expected.loss.requires_grad:
        assert all(g.abs().sum() == 0 for g in gradients)
        return
    references = torch.autograd.grad(expected.loss, leaves(hiddens, heads), allow_unused=True, materialize_grads=True)
    for mine, other in zip(gradients, references, strict=True):
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max() + 1e-7


@pytest.mark.parametrize("reduction", ["mean", "paper"])
def test_the_loss_does_not_depend_on_how_the_global_batch_is_cut(reduction):
    torch.manual_seed(0)
    n, rows, length = 3, 8, 12
    tokens = torch.randint(0, VOCABULARY, (rows, length))
    document = (torch.rand(rows, length) < 0.2).int().cumsum(1)
    document[3, 4:] = -1
    document[5] = -1  # one micro-batch of one row has nothing to learn
    hiddens, heads = model_outputs(n, rows, length, dtype=torch.float64)
    objective = MTPObjective(ObjectiveConfig(reduction=reduction), n, torch.linspace(0.5, 2, VOCABULARY))
    lambdas = torch.tensor([1.0, 0.3, 0.1])

    def run(cuts):
        """Loss, gradients and metric sums of the batch, cut up as `cuts` says."""
        parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, rows], strict=True)]
        targets = [objective.targets(tokens[part], document[part]) for part in parts]
        denominators = torch.stack([objective.denominators(t) for t in targets]).sum(0)
        outs = [
            objective([h[part] for h in hiddens], heads, t, lambdas, denominators)
            for part, t in zip(parts, targets, strict=True)
        ]
        loss = torch.stack([o.loss for o in outs]).sum()
        return loss, torch.autograd.grad(loss, leaves(hiddens, heads)), sum(o.sums() for o in outs)

    whole = run([])
    for cuts in ([4], [1, 2, 3, 4, 5, 6, 7], [5, 6]):
        torch.testing.assert_close(run(cuts), whole, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "paper"])
def test_a_batch_without_a_valid_position_gives_zero_and_zero_gradients(reduction):
    tokens, document = torch.zeros(2, 4, dtype=torch.int64), torch.full((2, 4), -1)
    hiddens, heads = model_outputs(3, 2, 4)
    objective = MTPObjective(ObjectiveConfig(reduction=reduction), 3)
    targets = objective.targets(tokens, document)
    out = objective(hiddens, heads, targets, torch.ones(3), objective.denominators(targets))
    assert out.loss.item() == 0
    assert all(g.abs().sum() == 0 for g in torch.autograd.grad(out.loss, leaves(hiddens, heads)))
    assert out.sums().abs().sum() == 0


def test_a_horizon_that_only_other_ranks_have_targets_for_stays_finite():
    tokens, document = torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[0, 0, 1, 1]])
    hiddens, heads = model_outputs(3, 1, 4)
    objective = MTPObjective(ObjectiveConfig(), 3)
    targets = objective.targets(tokens, document)
    assert objective.denominators(targets).tolist() == [2, 0, 0]
    out = objective(hiddens, heads, targets, torch.ones(3), torch.tensor([5.0, 7.0, 0.0]))
    assert out.loss.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.loss, leaves(hiddens, heads)))


def test_the_papers_reduction_divides_every_horizon_by_the_length_of_the_sequence():
    tokens, document = torch.arange(6)[None], torch.zeros(1, 6, dtype=torch.int32)
    hiddens = [torch.zeros(1, 6, WIDTH)] * 3
    heads = [torch.zeros(VOCABULARY, WIDTH)] * 3
    objective = MTPObjective(ObjectiveConfig(reduction="paper"), 3)
    targets = objective.targets(tokens, document)
    out = objective(hiddens, heads, targets, torch.ones(3), objective.denominators(targets))
    uniform = torch.tensor(float(VOCABULARY)).log()
    assert out.loss.item() == pytest.approx(float(uniform * (5 + 4 + 3) / 6), rel=1e-6)


def test_a_training_on_the_loss_with_the_configured_lambdas_follows_their_gradient():
    config = ObjectiveConfig()
    tokens, document = torch.randint(0, VOCABULARY, (2, 8)), torch.zeros(2, 8, dtype=torch.int32)
    hiddens, heads = model_outputs(2, 2, 8)
    objective = MTPObjective(config, 2)
    targets = objective.targets(tokens, document)
    lambdas = torch.tensor(lambdas_at(config.lambdas, 2, step=0, total_steps=10, tokens_seen=0))
    out = objective(hiddens, heads, targets, lambdas, objective.denominators(targets))
    mean = out.loss_sums / out.weight_sums
    assert out.loss.item() == pytest.approx(float(mean[0] + 0.3 * mean[1]), rel=1e-6)


def test_distillation_changes_what_horizons_beyond_the_first_learn_and_no_metric():
    tokens, document = torch.randint(0, VOCABULARY, (2, 8)), torch.zeros(2, 8, dtype=torch.int32)
    hiddens, heads = model_outputs(2, 2, 8)
    outputs, gradients = [], []
    for share in (0.0, 1.0):
        objective = MTPObjective(ObjectiveConfig(distillation=share), 2)
        targets = objective.targets(tokens, document)
        out = objective(hiddens, heads, targets, torch.ones(2), objective.denominators(targets))
        outputs.append(out)
        gradients.append(torch.autograd.grad(out.loss, hiddens))
    torch.testing.assert_close(outputs[0].sums(), outputs[1].sums())
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])
    assert outputs[0].loss != outputs[1].loss


def test_sums_have_one_row_for_each_name():
    hiddens, heads = model_outputs(2, 1, 4)
    objective = MTPObjective(ObjectiveConfig(), 2)
    targets = objective.targets(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4))
    sums = objective(hiddens, heads, targets, torch.ones(2), objective.denominators(targets)).sums()
    assert sums.shape == (len(SUMS), 2)
    assert sums.dtype == torch.float64
    assert not sums.requires_grad
