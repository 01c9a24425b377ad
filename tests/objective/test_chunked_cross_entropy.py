import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mtp.objective import linear_cross_entropy


def problem(n, rows, width, vocabulary, *, shared=True, dtype=torch.float32, seed=0, skipped=0.3):
    """(hiddens, heads, ids, coefficients, rows) with some rows skipped."""
    torch.manual_seed(seed)
    hiddens = [torch.randn(rows, width, dtype=dtype, requires_grad=True) for _ in range(n)]
    distinct = [torch.randn(vocabulary, width, dtype=dtype, requires_grad=True) for _ in range(1 if shared else n)]
    heads = distinct * n if shared else distinct
    ids = torch.randint(0, vocabulary, (n, rows))
    selected = torch.rand(n, rows) >= skipped
    coefficients = torch.rand(n, rows, dtype=torch.promote_types(dtype, torch.float32)) * selected
    return hiddens, heads, ids, coefficients, selected


def plain(hiddens, heads, ids, coefficients, distillation=0.0):
    """The same sum with whole logits and PyTorch's own cross-entropy, of ids and of probabilities."""
    logits = [h @ w.T for h, w in zip(hiddens, heads, strict=True)]
    rows = torch.arange(len(ids[0]))
    total = 0.0
    for k, (z, i, c) in enumerate(zip(logits, ids, coefficients, strict=True)):
        own = logits[0][(rows + k).clamp_max(len(rows) - 1)].softmax(dim=-1).detach()
        share = distillation if k else 0.0
        of_text, of_own = F.cross_entropy(z, i, reduction="none"), F.cross_entropy(z, own, reduction="none")
        total = total + (((1 - share) * of_text + share * of_own) * c).sum()
    return total


def leaves(hiddens, heads):
    return [*hiddens, *dict.fromkeys(heads)]


def assert_relatively_close(actual, expected, tolerance=1e-5):
    scale = expected.abs().max().clamp_min(1e-30)
    assert (actual.double() - expected.double()).abs().max() <= tolerance * scale


@given(
    n=st.integers(1, 4),
    rows=st.integers(1, 40),
    width=st.integers(1, 16),
    vocabulary=st.integers(1, 50),
    chunk_size=st.integers(1, 50),
    shared=st.booleans(),
    skipped=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    distillation=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_value_and_gradients_equal_the_plain_loss(
    n, rows, width, vocabulary, chunk_size, shared, skipped, distillation, seed
):
    hiddens, heads, ids, coefficients, selected = problem(
        n, rows, width, vocabulary, shared=shared, seed=seed, skipped=skipped
    )
    actual = linear_cross_entropy(
        hiddens, heads, ids, coefficients, selected, chunk_size=chunk_size, distillation=distillation
    )
    exact = [t.detach().double().requires_grad_() for t in leaves(hiddens, heads)]
    exact_heads = exact[n:] * n if shared else exact[n:]
    expected = plain(exact[:n], exact_heads, ids, coefficients.double(), distillation)
    assert_relatively_close(actual.loss, expected)
    ours = torch.autograd.grad(actual.loss, leaves(hiddens, heads))
    theirs = torch.autograd.grad(expected, exact)
    for mine, other in zip(ours, theirs, strict=True):
        # Where p - 1 cancels (a certain prediction) the rounding of p is what remains: hence a floor of 1e-7.
        assert (mine.double() - other).abs().max() <= 1e-5 * other.abs().max() + 1e-7 * coefficients.sum()


@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck_in_float64(shared):
    hiddens, heads, ids, coefficients, selected = problem(3, 5, 4, 6, shared=shared, dtype=torch.float64)

    def loss(*tensors):
        weights = tensors[3:] * 3 if shared else tensors[3:]
        return linear_cross_entropy(tensors[:3], weights, ids, coefficients, selected, chunk_size=2).loss

    assert torch.autograd.gradcheck(loss, leaves(hiddens, heads))


def test_a_certain_prediction_keeps_the_digits_of_its_loss():
    head = torch.tensor([[24.0], [16.5], [15.25]], requires_grad=True)
    hidden, ids, one = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    expected = F.cross_entropy((hidden @ head.T).double(), ids[0])
    actual = linear_cross_entropy([hidden], [head], ids, one, one.bool()).loss
    assert actual.item() == pytest.approx(expected.item(), abs=1e-7)  # of the probability, not of a logit of 24


def test_a_second_backward_gives_the_same_gradients_again():
    hiddens, heads, *rest = problem(2, 9, 4, 11)
    loss = linear_cross_entropy(hiddens, heads, *rest, chunk_size=4).loss
    first = torch.autograd.grad(loss, leaves(hiddens, heads), grad_outputs=torch.tensor(3.0), retain_graph=True)
    second = torch.autograd.grad(loss, leaves(hiddens, heads))
    for three_times, once in zip(first, second, strict=True):
        torch.testing.assert_close(three_times, 3.0 * once)


def test_a_skipped_row_is_never_read():
    hiddens, heads, ids, coefficients, selected = problem(2, 9, 4, 11)
    poisoned = [hiddens[k].detach().masked_fill(~selected[k, :, None], torch.nan).requires_grad_() for k in range(2)]
    actual = linear_cross_entropy(poisoned, heads, ids, coefficients, selected, chunk_size=4)
    gradients = torch.autograd.grad(actual.loss, leaves(poisoned, heads))
    assert actual.loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    for gradient, chosen in zip(gradients, selected, strict=False):
        assert gradient[~chosen].abs().sum() == 0


def test_a_frozen_head_gets_no_gradient_and_hidden_states_do():
    hiddens, heads, *rest = problem(2, 9, 4, 11)
    full = torch.autograd.grad(linear_cross_entropy(hiddens, heads, *rest).loss, hiddens)
    frozen = [heads[0].detach()] * 2
    torch.testing.assert_close(torch.autograd.grad(linear_cross_entropy(hiddens, frozen, *rest).loss, hiddens), full)


def test_frozen_hidden_states_get_no_gradient_and_the_head_does():
    hiddens, heads, *rest = problem(2, 9, 4, 11)
    (full,) = torch.autograd.grad(linear_cross_entropy(hiddens, heads, *rest).loss, [heads[0]])
    frozen = [h.detach() for h in hiddens]
    (alone,) = torch.autograd.grad(linear_cross_entropy(frozen, heads, *rest).loss, [heads[0]])
    torch.testing.assert_close(alone, full)


def test_without_gradients_the_loss_needs_none():
    hiddens, heads, *rest = problem(2, 9, 4, 11)
    with torch.no_grad():
        loss = linear_cross_entropy(hiddens, heads, *rest).loss
    assert not loss.requires_grad
    torch.testing.assert_close(loss, linear_cross_entropy(hiddens, heads, *rest).loss.detach())


def test_bf16_accumulates_in_fp32():
    rows, width = 4096, 8
    hiddens, heads, ids, _, selected = problem(1, rows, width, 16, dtype=torch.bfloat16, skipped=0.0)
    coefficients = torch.full((1, rows), 1 / rows)
    actual = linear_cross_entropy(hiddens, heads, ids, coefficients, selected, chunk_size=16)
    exact = [t.detach().double().requires_grad_() for t in leaves(hiddens, heads)]
    expected = plain(exact[:1], exact[1:], ids, coefficients.double())
    assert actual.loss.dtype == torch.float32
    assert_relatively_close(actual.loss, expected, 1e-5)
    gradients = torch.autograd.grad(actual.loss, leaves(hiddens, heads))
    for mine, other in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        assert mine.dtype == torch.bfloat16
        assert_relatively_close(mine, other, 2**-8)  # one rounding to bf16, not 256 of them


def test_matrix_products_in_bf16_as_on_accelerators_lose_no_more_than_their_rounding(monkeypatch):
    monkeypatch.setattr("mtp.objective.chunked_cross_entropy._matmul_dtype", lambda hidden: hidden.dtype)
    hiddens, heads, *rest = problem(2, 64, 16, 32, dtype=torch.bfloat16)
    actual = linear_cross_entropy(hiddens, heads, *rest, chunk_size=7)
    monkeypatch.undo()
    exact = linear_cross_entropy(hiddens, heads, *rest, chunk_size=7)
    assert_relatively_close(actual.loss, exact.loss, 2**-8)
    ours, theirs = (torch.autograd.grad(out.loss, leaves(hiddens, heads)) for out in (actual, exact))
    for mine, other in zip(ours, theirs, strict=True):
        assert_relatively_close(mine, other, 2**-5)


def test_extreme_logits_stay_finite_and_exact():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    head = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    out = linear_cross_entropy(
        [hidden], [head], torch.tensor([[0, 0]]), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    )
    assert out.nll[0].tolist() == [0.0, 2e4]
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.loss, [hidden, head]))


def test_agreement_compares_with_horizon_one_of_the_same_slot():
    head = torch.eye(3)
    one = torch.eye(3)[[0, 1, 2]]  # horizon 1 says 0, 1, 2 for the slots after 0, 1, 2
    two = torch.eye(3)[[1, 0, 0]]  # horizon 2 says 1, 0 for the slots after 1, 2
    selected = torch.tensor([[True, True, True], [True, True, False]])
    out = linear_cross_entropy(
        [one, two], [head, head], torch.tensor([[0, 0, 0], [0, 0, 0]]), torch.ones(2, 3), selected, chunk_size=2
    )
    assert out.agree.tolist() == [[True, True, True], [True, False, False]]
    assert out.correct.tolist() == [[True, False, False], [False, True, False]]


def test_a_horizon_of_coefficient_zero_reports_its_loss_and_gets_zero_gradients():
    hiddens, heads, ids, coefficients, selected = problem(2, 9, 4, 11, skipped=0.0)
    coefficients[1] = 0
    out = linear_cross_entropy(hiddens, heads, ids, coefficients, selected)
    assert out.nll[1].min() > 0
    assert torch.autograd.grad(out.loss, hiddens[1])[0].abs().sum() == 0
