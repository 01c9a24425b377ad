from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mtp.checkpoint import save_model
from mtp.config.promote import PromoteConfig
from mtp.evaluate.gates import perplexity_gate, promotion_gates, tokens_per_step_gate
from mtp.registry import ModelVersion
from tests.evaluate.conftest import TOKENIZER, tiny_model

CHAMPION = ModelVersion(
    name="m",
    version=1,
    aliases=("champion",),
    run_id=None,
    created=datetime.now(UTC),
    perplexity=40.0,
    acceptance=(0.6,),
    agreement=(0.6,),
    tokens_per_step=1.6,
    data_fingerprint="a",
    tokenizer_sha256=None,
    source_commit=None,
    parent=None,
    description="",
    tags={},
)


def test_perplexity_may_be_a_share_above_the_champions_and_no_more():
    assert perplexity_gate(replace(CHAMPION, perplexity=42.0), CHAMPION, 0.05).passed
    worse = perplexity_gate(replace(CHAMPION, perplexity=42.1), CHAMPION, 0.05)
    assert worse == (False, "perplexity 42.10, champion 40.00 + 5.0% = 42.00")
    assert perplexity_gate(CHAMPION, None, 0.05).passed


def test_a_version_that_was_never_evaluated_passes_neither_gate_and_says_how_to():
    unknown = replace(CHAMPION, version=2, perplexity=None, tokens_per_step=None)
    for gate in (perplexity_gate(unknown, CHAMPION, 0.05), tokens_per_step_gate(unknown, 1.0)):
        assert not gate.passed and "run mtp evaluate models:/m/2" in gate.detail


def test_tokens_per_step_have_a_lower_bound():
    assert tokens_per_step_gate(CHAMPION, 1.6).passed
    assert tokens_per_step_gate(CHAMPION, 1.7) == (False, "1.60 tokens per step, at least 1.70")


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_round_trip_and_exactness_are_tried_on_the_model_itself(kind, tmp_path):
    folder = save_model(tmp_path / "model", tiny_model(kind), TOKENIZER)
    limits = PromoteConfig(audit_samples=200, audit_prompts=2)
    gates = promotion_gates(folder, CHAMPION, None, limits)
    assert set(gates) == {"perplexity", "tokens-per-step", "round-trip", "exact"}
    assert all(gate.passed for gate in gates.values()), gates
    assert "tensors identical after export and import" in gates["round-trip"].detail
    assert set(promotion_gates(folder, CHAMPION, None, PromoteConfig(audit_samples=None, round_trip=False))) == {
        "perplexity",
        "tokens-per-step",
    }
