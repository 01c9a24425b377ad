import math

import pytest
import torch
import torch.nn.functional as F

from mtp.checkpoint import load_model, save_model
from mtp.data import read_rows
from mtp.errors import MTPError, UsageError
from mtp.evaluate import EvaluationReport, evaluate
from mtp.tokenizer import Tokenizer
from tests.evaluate.conftest import TOKENIZER, VOCABULARY, tiny_model


@pytest.fixture(scope="module")
def report(model_folder, dataset):
    return evaluate(model_folder, dataset, max_rows=12, batch_size=5, prompts=3, prompt_tokens=4, new_tokens=8)


def expected_losses(model_folder, dataset, rows):
    """Cross-entropy, top-1 and agreement of each horizon, one position at a time, and the bytes behind horizon 1."""
    model, tokenizer = load_model(model_folder), Tokenizer.load(model_folder)
    tokens, document = read_rows(dataset, limit=rows)
    with torch.no_grad():
        logits = [model.logits(h, k) for k, h in enumerate(model(tokens, document), 1)]
    nll, top1, agreement = ([[] for _ in logits] for _ in range(3))
    text_bytes = 0
    for row in range(rows):
        for slot in range(tokens.shape[1]):
            for k in range(1, len(logits) + 1):
                if slot + k >= tokens.shape[1] or document[row, slot] != document[row, slot + k]:
                    continue
                target, scores = tokens[row, slot + k], logits[k - 1][row, slot]
                nll[k - 1].append(float(F.cross_entropy(scores, target)))
                top1[k - 1].append(int(scores.argmax()) == int(target))
                agreement[k - 1].append(int(scores.argmax()) == int(logits[0][row, slot + k - 1].argmax()))
                if k == 1:
                    text_bytes += len(tokenizer.token_bytes(int(target)))
    return nll, top1, agreement, text_bytes


def mean(values):
    return sum(values) / len(values)


def test_losses_equal_a_loop_over_positions(report, model_folder, dataset):
    nll, top1, agreement, text_bytes = expected_losses(model_folder, dataset, 12)
    assert report.rows == 12
    assert report.tokens == len(nll[0])
    assert report.loss == pytest.approx([mean(values) for values in nll], rel=1e-5)
    assert report.top1 == pytest.approx([mean(values) for values in top1])
    assert report.agreement == pytest.approx([mean(values) for values in agreement[1:]])
    assert report.perplexity == pytest.approx(math.exp(mean(nll[0])), rel=1e-4)
    assert report.bits_per_byte == pytest.approx(sum(nll[0]) / math.log(2) / text_bytes, rel=1e-5)


def test_the_batch_size_changes_nothing(report, model_folder, dataset):
    again = evaluate(model_folder, dataset, max_rows=12, batch_size=12, prompts=0)
    assert again.loss == pytest.approx(report.loss, rel=1e-6)
    assert again.agreement == pytest.approx(report.agreement)
    assert again.decoding is None


def test_decoding_reports_every_draft_length_and_the_same_output_for_all(report):
    decoding = report.decoding
    assert decoding.prompts == decoding.identical == 3
    assert [length.num_draft_tokens for length in decoding.lengths] == [1, 2, 3]
    assert [len(length.acceptance) for length in decoding.lengths] == [1, 2, 3]
    assert decoding.draft_cost > 0
    assert decoding.tokens_per_step == decoding.lengths[-1].tokens_per_step >= 1


def test_metrics_carry_the_names_that_the_registry_keeps(report):
    names = report.metrics()
    assert set(names) == {
        "eval/ppl",
        "eval/bits_per_byte",
        *(f"eval/loss_h{k}" for k in (1, 2, 3, 4)),
        *(f"eval/top1_h{k}" for k in (1, 2, 3, 4)),
        *(f"eval/agreement_h{k}" for k in (2, 3, 4)),
        *(f"eval/acceptance_p{k}" for k in (1, 2, 3)),
        "eval/predicted_tokens_per_step",
        "eval/tokens_per_step",
        "eval/draft_cost",
    }
    assert names["eval/loss_h2"] == report.loss[1]
    assert names["eval/acceptance_p1"] == report.decoding.acceptance[0]


def test_a_report_survives_json(report):
    assert EvaluationReport.model_validate_json(report.to_json()) == report


@pytest.mark.parametrize("kind", ["parallel", "independent"])
def test_every_kind_of_modules_is_evaluated(kind, tmp_path, dataset):
    folder = save_model(tmp_path / kind, tiny_model(kind, 3), TOKENIZER)
    report = evaluate(folder, dataset, max_rows=4, prompts=2, prompt_tokens=4, new_tokens=6)
    assert len(report.loss) == 3
    assert report.decoding.identical == 2
    assert len(report.decoding.acceptance) == 2


def test_a_model_without_modules_decodes_one_token_a_step(tmp_path, dataset):
    folder = save_model(tmp_path / "none", tiny_model("none", 1), TOKENIZER)
    report = evaluate(folder, dataset, max_rows=4, prompts=2, prompt_tokens=4, new_tokens=6)
    assert report.agreement == []
    assert report.predicted_tokens_per_step == report.decoding.tokens_per_step == 1.0
    assert report.decoding.acceptance == []


def test_data_of_another_tokenizer_is_refused(tmp_path, dataset):
    other = Tokenizer.train(["quite different words"] * 3, vocab_size=VOCABULARY)
    folder = save_model(tmp_path / "other", tiny_model(), other)
    with pytest.raises(UsageError, match="another tokenizer"):
        evaluate(folder, dataset)


def test_a_data_set_that_is_not_there_is_named(model_folder, tmp_path):
    with pytest.raises(MTPError, match="nowhere"):
        evaluate(model_folder, tmp_path / "nowhere")


def test_a_model_that_is_not_there_is_named(dataset, tmp_path):
    with pytest.raises(MTPError, match="nowhere"):
        evaluate(tmp_path / "nowhere", dataset)
