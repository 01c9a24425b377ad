import pytest
import torch

from mtp.evaluate import measure_loss_memory
from mtp.evaluate.loss_memory import plain_cross_entropy
from mtp.objective import linear_cross_entropy


def test_more_horizons_need_no_more_memory_and_far_less_than_whole_logits():
    memory = measure_loss_memory(vocab_size=8192, rows=256, width=16, horizons=4, chunk_size=128)
    assert memory.all_vs_one <= 1.05
    assert memory.vs_plain <= 0.35
    logits = 4 * 256 * 8192
    assert memory.plain_all >= 4 * logits, "the measure misses what the plain loss holds"


def test_the_plain_loss_it_compares_with_is_the_same_loss():
    torch.manual_seed(0)
    hiddens, head, ids = [torch.randn(6, 3) for _ in range(2)], torch.randn(5, 3), torch.randint(5, (2, 6))
    rows = torch.ones(2, 6, dtype=torch.bool)
    ours = linear_cross_entropy(hiddens, [head, head], ids, rows / 6, rows).loss
    assert ours.item() == pytest.approx(plain_cross_entropy(hiddens, head, ids).item(), rel=1e-6)
