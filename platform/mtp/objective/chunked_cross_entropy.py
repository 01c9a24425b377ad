"""Cross-entropy of linear heads over all horizons, without ever holding the logits whole.

One autograd Function walks the horizons chunk by chunk: logits of a chunk, their softmax, and at once the gradients
of the hidden states and the head, into one buffer for each distinct head. The peak is O(chunk x V + V x d) for any
number of horizons. Knows matrices, target ids and row coefficients; knows nothing of documents or lambdas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearCrossEntropy:
    """What the walk found; everything but `loss` is detached, and 0 or False in rows that were skipped."""

    loss: Tensor
    """() the sum of coefficient x negative log-likelihood over all rows of all horizons; carries the gradient."""
    nll: Tensor
    """(n, N) -log p_k(target), in natural logarithms."""
    correct: Tensor
    """(n, N) bool: the target has the largest logit."""
    agree: Tensor
    """(n, N) bool: the token that horizon 1 finds most likely for the same slot has the largest logit."""


def linear_cross_entropy(
    hiddens: Sequence[Tensor],
    heads: Sequence[Tensor],
    ids: Tensor,
    coefficients: Tensor,
    rows: Tensor,
    *,
    chunk_size: int = 1024,
    distillation: float = 0.0,
) -> LinearCrossEntropy:
    """sum over k, i of coefficients[k, i] * -log softmax(hiddens[k] @ heads[k].T)[i, ids[k, i]].

    With `distillation` a, horizons from the second on learn a mixture of that token and of what horizon 1 predicts for
    the same slot, held fixed: (1 - a) * -log p_k(token) + a * -sum over v of p_1(v) log p_k(v) (Hinton et al. 2015,
    "Distilling the Knowledge in a Neural Network"; for drafts Zhou et al. 2023, "DistillSpec").

    Logits, sums and the heads' gradients are kept in fp32 when the model is in bf16.

    Args:
        hiddens: n tensors (N, d): the hidden states of each horizon, horizon 1 first.
        heads: n tensors (V, d); a head shared by horizons is the same tensor object, and gets one gradient buffer.
        ids: (n, N) int64, below V.
        coefficients: (n, N) float, the weight of each row in the loss; a horizon whose coefficients are all 0 costs
            a forward only.
        rows: (n, N) bool: the rows to compute; the others cost nothing. Where a row i of horizon k is set, so is row
            i+k-1 of horizon 1 (it predicts the same token), which is where `agree` looks.
        chunk_size: rows whose logits are held at once; twice as many with distillation.
        distillation: a, from 0 to 1.
    """
    distinct: list[Tensor] = []
    head_of = []
    for head in heads:
        known = [j for j, other in enumerate(distinct) if other is head]
        if not known:
            distinct.append(head)
        head_of.append(known[0] if known else len(distinct) - 1)
    selected = tuple(row.nonzero().squeeze(1) for row in rows)
    counted = tuple(coefficients.any(dim=1).tolist())
    problem = _Problem(
        ids, coefficients, selected, counted, tuple(head_of), chunk_size, distillation, torch.is_grad_enabled()
    )
    return LinearCrossEntropy(*_Function.apply(problem, *hiddens, *distinct))


@dataclass(frozen=True)
class _Problem:
    """Everything of a call that is not differentiated."""

    ids: Tensor
    coefficients: Tensor
    selected: tuple[Tensor, ...]
    """For each horizon the indices of the rows to compute."""
    counted: tuple[bool, ...]
    """For each horizon whether any coefficient is not 0, so that it has a gradient."""
    head_of: tuple[int, ...]
    """For each horizon the index of its head among the distinct ones."""
    chunk_size: int
    distillation: float
    grad_enabled: bool

    @property
    def n(self) -> int:
        return len(self.head_of)

    def chunks(self, k: int) -> Iterator[Tensor]:
        """Row indices of horizon k (from 0), chunk_size at a time."""
        selected = self.selected[k]
        return iter(selected.split(self.chunk_size)) if len(selected) else iter(())


class _Function(torch.autograd.Function):
    """The gradients are those for an output gradient of 1: backward scales them."""

    @staticmethod
    def forward(ctx: Any, problem: _Problem, *tensors: Tensor) -> tuple[Tensor, ...]:
        needed = tuple(needs and problem.grad_enabled for needs in ctx.needs_input_grad[1:])
        walk = _Walk(problem, tensors, needed)
        walk.run()
        loss = (problem.coefficients.to(walk.nll.dtype) * walk.cost).sum()
        ctx.problem, ctx.needed, ctx.gradients = problem, needed, walk.gradients
        ctx.save_for_backward(*tensors)
        outputs = (loss, walk.nll, walk.correct, walk.agree)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward (retain_graph): the first one gave its buffers away
            walk = _Walk(ctx.problem, tensors, ctx.needed)
            walk.run()
            gradients = walk.gradients
        scaled = (
            None if g is None else g.mul_(loss_gradient).to(t.dtype) for g, t in zip(gradients, tensors, strict=True)
        )
        return None, *scaled


class _Walk:
    """One pass over all chunks of all horizons."""

    def __init__(self, problem: _Problem, tensors: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self.problem = problem
        self.hiddens, self.heads = tensors[: problem.n], tensors[problem.n :]
        first = tensors[0]
        self.dtype = torch.promote_types(first.dtype, torch.float32)
        self.matmul_dtype = _matmul_dtype(first)
        self.nll = torch.zeros(problem.ids.shape, dtype=self.dtype, device=first.device)
        self.cost = torch.zeros_like(self.nll) if problem.distillation else self.nll
        self.correct = torch.zeros(problem.ids.shape, dtype=torch.bool, device=first.device)
        self.agree = torch.zeros_like(self.correct)
        self.own_choice = torch.zeros_like(problem.ids[0])
        self.gradients: list[Tensor | None] = [
            torch.zeros_like(tensor, dtype=tensor.dtype if i < problem.n else self.dtype) if need else None
            for i, (tensor, need) in enumerate(zip(tensors, needed, strict=True))
        ]

    def run(self) -> None:
        """Fill nll, correct, agree and the gradients."""
        problem = self.problem
        longest = min(problem.chunk_size, max(len(selected) for selected in problem.selected))
        buffers = self.nll.new_empty((2 if problem.distillation else 1, longest, self.heads[0].shape[0]))
        self.own_head = weight = self.heads[0].to(self.matmul_dtype)
        held = 0
        for k in range(problem.n):
            if problem.head_of[k] != held:
                held = problem.head_of[k]
                weight = self.heads[held].to(self.matmul_dtype)
            for rows in problem.chunks(k):
                self._chunk(k, rows, weight, buffers[:, : len(rows)])

    def _chunk(self, k: int, rows: Tensor, weight: Tensor, buffers: Tensor) -> None:
        """One chunk of horizon k (from 0): its results, then its gradients out of the same buffer."""
        hidden = self.hiddens[k][rows].to(self.matmul_dtype)
        ids = self.problem.ids[k, rows]
        logits = _product(hidden, weight.t(), buffers[0])
        largest = logits.amax(dim=-1)
        target = logits.gather(1, ids[:, None]).squeeze(1)
        if k == 0:
            self.own_choice[rows] = logits.argmax(dim=-1)
        same_slot = (rows + k).clamp_max(len(self.own_choice) - 1)
        own = logits.gather(1, self.own_choice[same_slot, None]).squeeze(1)
        teacher = self._horizon_1(same_slot, buffers[1]) if k and self.problem.distillation else None
        expected = target if teacher is None else torch.einsum("iv,iv->i", teacher, logits)
        probabilities = torch.softmax(logits, dim=-1, out=logits)
        # log p(target) = target - logsumexp, and exp(largest - logsumexp) is the largest probability.
        self.nll[k, rows] = nll = largest - target - probabilities.amax(dim=-1).log()
        self.cost[k, rows] = nll + self.problem.distillation * (target - expected)
        self.correct[k, rows] = target == largest
        self.agree[k, rows] = own == largest
        self._differentiate(k, rows, hidden, weight, probabilities, teacher)

    def _horizon_1(self, rows: Tensor, buffer: Tensor) -> Tensor:
        """(chunk, V) what horizon 1 predicts in those rows, in `buffer`."""
        hidden = self.hiddens[0][rows].to(self.matmul_dtype)
        logits = _product(hidden, self.own_head.t(), buffer)
        return torch.softmax(logits, dim=-1, out=logits)

    def _differentiate(
        self, k: int, rows: Tensor, hidden: Tensor, weight: Tensor, probabilities: Tensor, teacher: Tensor | None
    ) -> None:
        """d loss / d logits = coefficient * (p - wanted), where wanted is the target's one-hot, mixed with the teacher.

        The coefficient is applied on the (chunk, d) side.
        """
        problem = self.problem
        of_hidden, of_head = self.gradients[k], self.gradients[problem.n + problem.head_of[k]]
        if (of_hidden is None and of_head is None) or not problem.counted[k]:
            return
        coefficients = problem.coefficients[k, rows, None].to(self.dtype)
        residual, of_text = probabilities, 1.0
        if teacher is not None:
            residual.sub_(teacher, alpha=problem.distillation)
            of_text -= problem.distillation
        residual.scatter_add_(1, problem.ids[k, rows, None], torch.full_like(coefficients, -of_text))
        residual = residual.to(self.matmul_dtype)
        if of_hidden is not None:
            of_hidden[rows] = (coefficients * (residual @ weight)).to(of_hidden.dtype)
        if of_head is not None:
            _accumulate(of_head, residual.t(), (coefficients * hidden).to(self.matmul_dtype))


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    """CPUs multiply bf16 matrices many times slower than fp32 ones; accelerators the other way round."""
    return torch.promote_types(hidden.dtype, torch.float32) if hidden.device.type == "cpu" else hidden.dtype


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a @ b in `out`, whose dtype may be wider than theirs."""
    return torch.mm(a, b, out=out) if out.dtype == a.dtype else out.copy_(a @ b)


def _accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where total's dtype may be wider than theirs."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)
