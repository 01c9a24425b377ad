"""Task files of lm-eval against the model's own forward pass."""

import json

import pytest
import torch

from mtp.checkpoint import load_model, save_model
from mtp.errors import MTPError, UsageError
from mtp.evaluate import score_task
from tests.evaluate.conftest import TOKENIZER, TOKENS, tiny_model

CHOICES = [
    {"context": "hello", "choices": [" world", " hello", " wor"], "label": 0},
    {"context": "world hello", "choices": [" he", " world", "lo lo"], "label": 1},
    {"context": "wo", "choices": ["rld", "llo", "hhh"], "label": 2},
    {"context": "hel", "choices": ["lo world", "wo", "d"], "label": 1},
]

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": "[{metric: acc, aggregation: mean, higher_is_better: true}]",
    "target_delimiter": '""',
}
"""Of a task that asks which of the choices is the likeliest."""


def write_task(folder, **fields):
    """A task over CHOICES."""
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in CHOICES))
    lines = [
        "task: local_words",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}",
        "test_split: test",
        'doc_to_text: "{{context}}"',
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    file = folder / "words.yaml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@torch.no_grad()
def log_likelihood(model, context, continuation):
    ids = torch.tensor([TOKENIZER.encode(context + continuation)])
    hidden = model(torch.nn.functional.pad(ids, (0, 4)))[0][:, : ids.shape[1]]
    scores = model.logits(hidden).log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return float(scores[len(TOKENIZER.encode(context)) - 1 :].sum())


def test_choices_are_scored_as_the_models_forward_pass_scores_them(model_folder, tmp_path):
    file = write_task(tmp_path, **CHOICE)
    model = load_model(model_folder)
    right = 0
    for row in CHOICES:
        scores = [log_likelihood(model, row["context"], choice) for choice in row["choices"]]
        right += scores.index(max(scores)) == row["label"]
    found = score_task(model_folder, file)
    assert found.task == "local_words" and found.documents == len(CHOICES)
    assert found.scores["acc"] == pytest.approx(right / len(CHOICES))
    assert score_task(model_folder, file, limit=2).documents == 2


def test_texts_are_continued_until_a_stop_string(tmp_path):
    from mtp.decode import Sampling, generate

    model = tiny_model(vocab_size=TOKENS)
    model_folder = save_model(tmp_path / "model", model, TOKENIZER)
    outputs = generate(model, [TOKENIZER.encode(row["context"]) for row in CHOICES], Sampling(max_tokens=6))
    texts = [TOKENIZER.decode(one.tokens) for one in outputs]
    stop = texts[0][1:3]
    for row, text in zip(CHOICES, texts, strict=True):
        row["answer"] = text.split(stop)[0]
    file = write_task(
        tmp_path,
        output_type="generate_until",
        doc_to_target='"{{answer}}"',
        generation_kwargs=json.dumps({"until": [stop], "max_gen_toks": 6, "do_sample": False}),
        metric_list="[{metric: exact_match, aggregation: mean, higher_is_better: true}]",
    )
    assert score_task(model_folder, file).scores["exact_match"] == 1.0


def test_whole_texts_longer_than_the_context_count_every_token_once(model_folder):
    from mtp.evaluate.lm_eval_model import EngineLM

    model = load_model(model_folder)
    text = "hello world " * 60
    ids = TOKENIZER.encode(text)
    longest = model.config.max_position_embeddings
    assert len(ids) > longest
    from lm_eval.api.instance import Instance

    (found,) = EngineLM(model, TOKENIZER, 2).loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    stream, total = [TOKENIZER.eos_id, *ids], 0.0
    for start in range(0, len(ids), longest - 1):
        new = stream[start + 1 : start + longest]
        begin = max(start + len(new) - (longest - 1), 0)  # the last window reaches back over as much as fits
        rows = torch.tensor([stream[begin : start + len(new) + 1]])
        with torch.no_grad():
            scores = model.logits(model(rows)[0]).log_softmax(-1)[0, :-1].gather(1, rows[0, 1:, None])[:, 0]
        total += float(scores[-len(new) :].sum())
    assert found == pytest.approx(total, rel=1e-4)


def test_what_is_no_task_file_is_refused(model_folder, tmp_path):
    with pytest.raises(UsageError, match="cannot read the task file"):
        score_task(model_folder, str(tmp_path / "absent.yaml"))
    (tmp_path / "empty.yaml").write_text("dataset_path: json\n")
    with pytest.raises(UsageError, match="task: NAME"):
        score_task(model_folder, str(tmp_path / "empty.yaml"))
    with pytest.raises(MTPError, match="lm-eval cannot run the task local_words"):
        score_task(model_folder, write_task(tmp_path, output_type="no_such_type"))
