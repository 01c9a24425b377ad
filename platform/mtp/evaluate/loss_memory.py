"""Peak memory of the loss, chunked and plain: what `loss_memory_4_vs_1` and `loss_memory_vs_plain` are made of.

Counts what PyTorch's allocator hands out between forward and the end of backward, above the inputs: deterministic,
and free of what else the process holds. Knows nothing of the command that prints it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp.objective import linear_cross_entropy


@dataclass(frozen=True)
class LossMemory:
    """Peak bytes of one forward and backward of the loss, inputs left out, gradients included."""

    ours_one: int
    """Chunked, horizon 1 alone."""
    ours_all: int
    """Chunked, all horizons."""
    plain_all: int
    """Whole logits, all horizons."""

    @property
    def all_vs_one(self) -> float:
        """How much the other horizons add: 1 means nothing."""
        return self.ours_all / self.ours_one

    @property
    def vs_plain(self) -> float:
        """Ours over the plain implementation's, for all horizons."""
        return self.ours_all / self.plain_all


def measure_loss_memory(
    *,
    vocab_size: int = 32768,
    rows: int = 2048,
    width: int = 256,
    horizons: int = 4,
    chunk_size: int = 1024,
    device: str = "cpu",
) -> LossMemory:
    """Measure both implementations on random hidden states (rows, width) and one shared head (vocab_size, width)."""
    head = torch.randn(vocab_size, width, device=device, requires_grad=True)
    hiddens = [torch.randn(rows, width, device=device, requires_grad=True) for _ in range(horizons)]
    ids = torch.randint(vocab_size, (horizons, rows), device=device)

    def ours(n: int) -> Callable[[], None]:
        coefficients = torch.full((n, rows), 1 / rows, device=device)
        counted = torch.ones(n, rows, dtype=torch.bool, device=device)
        return lambda: linear_cross_entropy(
            hiddens[:n], [head] * n, ids[:n], coefficients, counted, chunk_size=chunk_size
        ).loss.backward()

    leaves = [head, *hiddens]
    return LossMemory(
        ours_one=_peak_bytes(ours(1), leaves, device),
        ours_all=_peak_bytes(ours(horizons), leaves, device),
        plain_all=_peak_bytes(lambda: plain_cross_entropy(hiddens, head, ids).backward(), leaves, device),
    )


def plain_cross_entropy(hiddens: Sequence[Tensor], head: Tensor, ids: Tensor) -> Tensor:
    """The sum over horizons of the mean cross-entropy, with every horizon's logits (rows, V) held whole."""
    losses = [F.cross_entropy(hidden @ head.t(), ids[k]) for k, hidden in enumerate(hiddens)]
    return torch.stack(losses).sum()


def _peak_bytes(step: Callable[[], None], leaves: Sequence[Tensor], device: str) -> int:
    """The most bytes that `step` holds at once; gradients of `leaves` from before are dropped first."""
    for leaf in leaves:
        leaf.grad = None
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes its own log lines to stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
