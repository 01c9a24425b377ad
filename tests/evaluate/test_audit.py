import pytest
import torch

from mtp.evaluate.audit import audit
from mtp.model import MTPModel
from tests.decode.tiny import tiny_config, tiny_model, train


def verdicts(report):
    return {(row.decoder, row.rule, row.test): row.verdict for row in report.rows}


def test_exact_decoders_pass_and_lossy_ones_show_their_divergence():
    torch.manual_seed(5)
    small = train(MTPModel(tiny_config({"kind": "none", "n_future": 1}, num_hidden_layers=1)), 20)
    report = audit(tiny_model("sequential"), prompts=6, samples=600, draft_model=small)
    found = verdicts(report)
    for decoder in ("standard", "mtp", "draft_model", "prompt_lookup"):
        assert found[decoder, "exact", "greedy"] == "exact"
        assert found[decoder, "exact", "sampling"] == "exact"
        assert found[decoder, "exact, seeded", "sampling"] == "exact"
    assert not report.failed
    lossy = [row for row in report.rows if row.verdict == "lossy" and row.test == "sampling"]
    assert {row.rule for row in lossy} == {"threshold", "typical", "unverified"}
    assert all(row.p_value < 1e-6 and row.divergence > 1.5 * row.noise for row in lossy)


@pytest.mark.long
def test_a_decoder_that_is_not_exact_is_found(monkeypatch):
    """The acceptance rule that forgets the residual: emits from p after a rejection."""
    from mtp.decode import acceptance

    monkeypatch.setattr(acceptance, "_residual", lambda p, *_: p)
    report = audit(tiny_model("sequential"), prompts=2, samples=1000)
    assert {(row.decoder, row.rule) for row in report.failed} >= {("mtp", "exact")}
    assert verdicts(report)["standard", "exact", "sampling"] == "exact"
