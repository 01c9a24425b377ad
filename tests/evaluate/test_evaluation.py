import math

import pytest
import torch
import torch.nn.functional as F

from mtp.checkpoint import load_model, save_model
from mtp.data import read_rows
from mtp.errors import MTPError, UsageError
from mtp.evaluate import EvaluationReport, evaluate
from mtp.evaluate.documents import whole_documents
from mtp.tokenizer import Tokenizer
from tests.data.datasets import write_dataset, write_split
from tests.evaluate.conftest import TOKENIZER, TOKENS, VOCABULARY, tiny_model


@pytest.fixture(scope="module")
def report(model_folder, dataset):
    return evaluate(model_folder, dataset, max_rows=12, batch_size=5, prompts=3, prompt_tokens=4, new_tokens=8)


def expected_losses(model_folder, dataset, rows, window=16, stride=8):
    """Cross-entropy, top-1 and agreement of each horizon, one token at a time, and the bytes behind horizon 1."""
    model, tokenizer = load_model(model_folder), Tokenizer.load(model_folder)
    tokens, document = read_rows(dataset, limit=rows)
    n = model.config.n_future
    nll, top1, agreement = ([[] for _ in range(n)] for _ in range(3))
    text_bytes = 0
    for _, ids in whole_documents(tokens, document, eos_id=0):
        for place in range(1, len(ids)):
            start = 0
            while start + window <= place:  # the first window that holds the token
                start += stride
            with torch.no_grad():
                hiddens = model(padded(ids[start : start + window], n).unsqueeze(0))
                logits = [model.logits(h, k)[0] for k, h in enumerate(hiddens, 1)]
            for k in range(1, n + 1):
                slot = place - start - k
                if slot < 0:
                    continue
                scores = logits[k - 1][slot]
                nll[k - 1].append(float(F.cross_entropy(scores, ids[place])))
                top1[k - 1].append(int(scores.argmax()) == int(ids[place]))
                agreement[k - 1].append(int(scores.argmax()) == int(logits[0][slot + k - 1].argmax()))
            text_bytes += len(tokenizer.token_bytes(int(ids[place])))
    return nll, top1, agreement, text_bytes


def padded(ids, length):
    """A model reads no row shorter than its horizons; what comes later changes nothing before it."""
    return F.pad(ids, (0, max(0, length - len(ids))))


def mean(values):
    return sum(values) / len(values)


def test_losses_equal_a_loop_over_the_tokens_of_whole_documents(report, model_folder, dataset):
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
        *(f"eval/ece_h{k}" for k in (1, 2, 3, 4)),
        *(f"eval/acceptance_p{k}" for k in (1, 2, 3)),
        *(f"eval/sampled_acceptance_p{k}" for k in (1, 2, 3)),
        "eval/sampled_tokens_per_step",
        "eval/predicted_tokens_per_step",
        "eval/tokens_per_step",
        "eval/draft_cost",
    }
    assert names["eval/loss_h2"] == report.loss[1]
    assert names["eval/acceptance_p1"] == report.decoding.acceptance[0]


def test_calibration_compares_confidence_with_how_often_it_was_right(report, model_folder, dataset):
    from mtp.evaluate.held_out import expected_calibration_error

    assert sum(cell.count for cell in report.reliability[0]) == report.tokens
    assert len(report.ece) == 4 and all(0 <= error <= 1 for error in report.ece)
    bins = torch.zeros(3, 1, 10)
    bins[:, 0, 9] = torch.tensor([8.0, 7.6, 6.0])  # 95 % sure, right 75 % of the time
    bins[:, 0, 2] = torch.tensor([2.0, 0.5, 0.5])  # right as often as said
    assert expected_calibration_error(bins) == pytest.approx([0.8 * 0.2])


def test_domains_are_measured_each_for_itself(report, model_folder, dataset, tmp_path):
    write_dataset(tmp_path / "other", shard_rows=(6,), seq_len=16, vocab_size=TOKENS, seed=5)
    sizes = {"max_rows": 12, "prompts": 3, "prompt_tokens": 4, "new_tokens": 8}
    both = evaluate(model_folder, dataset, domains={"other": str(tmp_path / "other")}, **sizes)
    alone = evaluate(model_folder, tmp_path / "other", **sizes)
    assert both.loss == pytest.approx(report.loss)
    assert both.domains["other"].perplexity == pytest.approx(alone.perplexity)
    assert both.domains["other"].acceptance == alone.decoding.acceptance
    assert both.metrics()["eval/other/acceptance_p1"] == alone.decoding.acceptance[0]


def test_parts_measured_apart_give_the_same_report(report, model_folder, dataset, monkeypatch):
    from mtp.evaluate import parts

    monkeypatch.setattr(parts, "ROWS_PER_PART", 5)
    monkeypatch.setattr(parts, "PROMPTS_PER_PART", 1)
    again = evaluate(model_folder, dataset, max_rows=12, batch_size=3, prompts=3, prompt_tokens=4, new_tokens=8)
    assert again.tokens == report.tokens
    assert again.loss == pytest.approx(report.loss, rel=1e-5)
    assert again.decoding.acceptance == report.decoding.acceptance


def test_a_stride_that_hides_a_horizon_is_refused(model_folder, dataset):
    with pytest.raises(UsageError, match=r"evaluate\.stride is 13; it must be .* at most window - n_future \(12\)"):
        evaluate(model_folder, dataset, stride=13)
    with pytest.raises(UsageError, match=r"evaluate\.window is 65"):
        evaluate(model_folder, dataset, window=65)


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


def test_the_largest_domains_of_the_data_are_measured_as_if_prepared_apart(model_folder, tmp_path):
    ids = [[1 + (7 * k + j) % (TOKENS - 1) for j in range(20 + k)] for k in range(8)]
    names = ["law/eu", ".", "law/eu", ".", ".", "poems", "law/eu", "law/eu"]
    whole = write_split(tmp_path / "whole", [list(zip(names, ids, strict=True))], TOKENS)
    alone = write_split(
        tmp_path / "law", [[("law", its) for name, its in zip(names, ids, strict=True) if name == "law/eu"]], TOKENS
    )
    sizes = {"window": 8, "max_rows": 12, "prompts": 3, "prompt_tokens": 4, "new_tokens": 8}
    report = evaluate(model_folder, str(whole.location), largest_domains=2, **sizes)
    expected = evaluate(model_folder, str(alone.location), **sizes)
    assert list(report.domains) == ["law/eu", "."]
    law = report.domains["law/eu"]
    assert (law.tokens, law.perplexity) == (expected.tokens, pytest.approx(expected.perplexity))
    assert law.acceptance == expected.decoding.acceptance
    assert report.metrics()["eval/law_eu/ppl"] == law.perplexity
    assert "eval/_/ppl" in report.metrics()
    columns, rows = report.domain_table()
    assert len(columns) == 8 and [row[0] for row in rows] == ["law/eu", "."]
    with pytest.raises(UsageError, match=r"names a data set '\.', which is also a domain"):
        evaluate(model_folder, str(whole.location), largest_domains=2, domains={".": str(alone.location)}, **sizes)


def test_a_document_that_is_longer_than_a_part_leaves_parts_in_which_none_begins(model_folder, tmp_path, monkeypatch):
    from mtp.evaluate import parts

    long = [1 + k % (TOKENS - 1) for k in range(100)]
    data = write_split(tmp_path, [[("a", [1, 2, 3]), ("a", long), ("a", [4, 5, 6])]], TOKENS)
    sizes = {"window": 8, "max_rows": 50, "prompts": 0}
    whole = evaluate(model_folder, str(data.location), **sizes)
    monkeypatch.setattr(parts, "ROWS_PER_PART", 2)
    cut = evaluate(model_folder, str(data.location), **sizes)
    assert cut.tokens == whole.tokens == 106  # every token but the first of each document, its end included
    assert cut.loss == pytest.approx(whole.loss)
