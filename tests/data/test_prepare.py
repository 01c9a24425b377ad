"""prepare on a real cluster: the same bytes on every machine, every fault one sentence, nothing half done."""

import gzip
import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtp.config import DataConfig
from mtp.data import open_dataset, open_training_data
from mtp.data.chunks import make_chunks, split_pieces
from mtp.data.corpus import find_corpus
from mtp.data.documents import Columns, inspect_file
from mtp.data.packing import PADDING
from mtp.data.stream.prepare import prepare
from mtp.data.stream.shard_task import ShardSettings, encode_documents, make_shard
from mtp.errors import MTPError, UsageError
from mtp.tokenizer import Tokenizer

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog;",
    "naïve",
    "漢字",
    "<|endoftext|>",
    "🙂",
    "end",
]


def write_corpus(folder, files=30, seed=0):
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        words = random.choice(WORDS, random.integers(5, 2000))
        (folder / f"{number:03d}.txt").write_text(" ".join(words) + "\n")
    return folder


def settings(folder, **changes):
    return DataConfig(
        **{"corpus": str(folder / "corpus"), "path": str(folder / "data"), "seq_len": 64, "vocab_size": 300} | changes
    )


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def texts_of(dataset):
    """The documents of a split, decoded, as a sorted list."""
    tokens, document = dataset.take(np.arange(dataset.manifest.rows))
    texts, first = [], 0
    for shard in dataset.manifest.shards:
        rows = slice(first, first := first + shard.rows)
        ids = tokens[rows].ravel()[document[rows].ravel() != PADDING]
        ends = np.flatnonzero(ids == dataset.manifest.eos_id)
        texts += [dataset.tokenizer.decode(part[:-1].tolist()) for part in np.split(ids, ends + 1) if len(part)]
    return sorted(texts)


@pytest.fixture(scope="module")
def prepared(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    write_corpus(folder / "corpus")
    progress = []
    return folder, prepare(settings(folder), lambda *step: progress.append(step)), progress


def test_every_document_is_there_once_whole_and_on_one_side(prepared):
    folder, data, _ = prepared
    both = sorted(texts_of(data.train) + texts_of(data.validation))
    assert both == sorted(path.read_text() for path in (folder / "corpus").iterdir())
    assert data.train.manifest.documents + data.validation.manifest.documents == 30
    assert data.validation.manifest.documents >= 1
    data.train.verify()
    data.validation.verify()


def test_text_that_spells_the_end_of_text_is_not_one(prepared):
    _, data, _ = prepared
    counts = data.train.token_counts()
    assert counts[data.train.manifest.eos_id] == data.train.manifest.documents
    assert counts.sum() == data.train.manifest.tokens


def test_progress_is_told_by_stage_and_ends_at_the_total(prepared):
    _, _, progress = prepared
    last = {stage: (done, total) for stage, done, total in progress}
    assert list(last) == ["scan", "train tokenizer", "tokenize"]
    assert all(done == total for done, total in last.values())


def test_a_second_prepare_finds_the_first_ones_data_set(prepared):
    folder, data, _ = prepared
    before = (folder / "data/train/manifest.json").stat().st_mtime_ns
    again = prepare(settings(folder))
    assert again.reused and not data.reused
    assert (folder / "data/train/manifest.json").stat().st_mtime_ns == before
    assert again.train.manifest == data.train.manifest


def test_another_place_gets_the_same_fingerprint(prepared, tmp_path):
    folder, data, _ = prepared
    elsewhere = prepare(settings(folder, path=str(tmp_path / "elsewhere")))
    assert elsewhere.train.manifest.fingerprint == data.train.manifest.fingerprint


def test_one_process_without_a_cluster_makes_the_same_bytes(prepared, tmp_path):
    """Tasks know only their chunk: how many run at once, where, and in what order, changes nothing."""
    folder, data, _ = prepared
    corpus = find_corpus(str(folder / "corpus"))
    reports = [inspect_file(file, Columns("text")) for file in corpus.files]
    rules = ShardSettings(
        workspace=str(tmp_path), tokenizer_json=data.train.tokenizer.to_json(), seq_len=64, columns=Columns("text")
    )
    for chunk in reversed(make_chunks(split_pieces(reports, 0.05), 4096, 64)):
        shard = make_shard(chunk, rules).shard
        if shard is not None:
            assert shard in (*data.train.manifest.shards, *data.validation.manifest.shards)


def test_a_second_corpus_may_use_the_first_ones_tokenizer_and_is_mixed_with_it(prepared, tmp_path):
    folder, first, _ = prepared
    write_corpus(tmp_path / "corpus", files=6, seed=1)
    second = prepare(settings(tmp_path, tokenizer=str(folder / "data")))
    assert second.train.manifest.tokenizer == first.train.manifest.tokenizer
    mixture = [{"path": str(place / "data")} for place in (folder, tmp_path)]
    assert len(open_training_data(DataConfig(mixture=mixture)).sources) == 2
    for place, size, reason in (
        ("nothing", 300, r"holds no tokenizer\.json"),
        (folder / "data", 260, "data.vocab_size is 260"),
    ):
        with pytest.raises(UsageError, match=reason):
            prepare(settings(tmp_path, tokenizer=str(place), vocab_size=size))


def test_a_data_set_of_other_settings_is_kept_unless_told_to_overwrite(prepared, tmp_path):
    folder, _, _ = prepared
    place = str(tmp_path / "data")
    first = prepare(settings(folder, path=place))
    with pytest.raises(UsageError, match=r"data set of another corpus or other settings.*data\.overwrite=true"):
        prepare(settings(folder, path=place, seq_len=32))
    assert open_dataset(f"{place}/train").manifest == first.train.manifest
    second = prepare(settings(folder, path=place, seq_len=32, overwrite=True))
    assert not second.reused and second.train.manifest.seq_len == 32
    assert names(tmp_path) == ["data"]


def test_a_damaged_data_set_is_named_and_can_be_overwritten(prepared, tmp_path):
    folder, _, _ = prepared
    place = tmp_path / "data"
    prepare(settings(folder, path=str(place)))
    (place / "train/shard-00000.parquet").unlink()
    with pytest.raises(UsageError, match=r"shard-00000\.parquet is missing.*data\.overwrite=true"):
        prepare(settings(folder, path=str(place)))
    prepare(settings(folder, path=str(place), overwrite=True)).train.verify()


def test_all_formats_give_the_same_documents(ray_cluster, tmp_path):
    texts = [f"document {number} " * 20 for number in range(12)]
    corpus = tmp_path / "corpus"
    (corpus / "deep/er").mkdir(parents=True)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (corpus / "a.jsonl").write_text("".join(lines[:3]))
    (corpus / "deep/b.jsonl.gz").write_bytes(gzip.compress("".join(lines[3:6]).encode()))
    pq.write_table(pa.table({"text": texts[6:9]}), corpus / "deep/er/c.parquet", row_group_size=2)
    for number, text in enumerate(texts[9:]):
        (corpus / f"{number}.rst").write_text(text)
    data = prepare(settings(tmp_path))
    assert sorted(texts_of(data.train) + texts_of(data.validation)) == sorted(texts)


def test_what_cannot_be_read_as_text_is_counted_and_named(ray_cluster, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", files=4)
    (corpus / "picture.png").write_bytes(b"\x89PNG\r\n")
    (corpus / "lines.jsonl").write_bytes(b'{"text": "good"}\n{"text": "\xff"}\n')
    (corpus / "empty.txt").touch()
    record = prepare(settings(tmp_path)).train.manifest.corpus
    assert (record.skipped_files, record.skipped_documents) == (1, 1)
    assert [(skip.path, skip.reason) for skip in record.skipped] == [
        ("picture.png", "not UTF-8 at byte 0"),
        ("lines.jsonl#17", "not UTF-8"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.bin", b"\xff\xfe\0", UsageError, r"none of the 1 files of .*corpus holds text \(a\.bin: not UTF-8"),
        ("a.jsonl", b'{"body": "x"}\n', MTPError, r"no key 'text' \(it has body\); set data\.text_column"),
        ("a.jsonl", b'{"text": "x"}\n{oops\n', MTPError, r"a\.jsonl at byte 14 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n', MTPError, r"no document of .* fell into the (train|validation) part"),
    ],
)
def test_a_corpus_that_cannot_be_used_gets_one_sentence(ray_cluster, tmp_path, name, content, error, message):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / name).write_bytes(content)
    with pytest.raises(MTPError, match=message) as raised:
        prepare(settings(tmp_path))
    assert type(raised.value) is error and "\n" not in str(raised.value)
    assert names(tmp_path) == ["corpus"]


def test_an_error_in_a_task_reaches_the_user_as_its_own_sentence(ray_cluster, tmp_path):
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        pq.write_table(pa.table({"body": ["x"]}), tmp_path / "corpus" / f"{number}.parquet")
    with pytest.raises(MTPError, match=r"parquet has no column 'text' \(it has body\)") as raised:
        prepare(settings(tmp_path))
    assert "Traceback" not in str(raised.value)


def test_a_single_file_holds_out_a_part_of_itself_and_says_so(ray_cluster, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("".join(f"line {number}\n" for number in range(5000)))
    data = prepare(settings(tmp_path, corpus=str(book)))
    assert "only file" in data.split_rule
    assert texts_of(data.train)[0] + texts_of(data.validation)[0] == book.read_text()

    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(300)))
    data = prepare(settings(tmp_path, corpus=str(lines), path=str(tmp_path / "lines"), held_out=0.2))
    assert data.train.manifest.documents + data.validation.manifest.documents == 300
    assert 30 < data.validation.manifest.documents < 90


def test_a_killed_prepare_leaves_nothing_that_counts_and_the_next_one_finishes(ray_cluster, tmp_path):
    write_corpus(tmp_path / "corpus", files=40)
    script = f"""
        import os, signal, ray
        from mtp.config import DataConfig
        from mtp.data.stream.prepare import prepare
        ray.init(logging_level="error", log_to_driver=False)
        def die(stage, done, total):
            if stage == "tokenize" and done:
                os.kill(os.getpid(), signal.SIGKILL)
        prepare(DataConfig.model_validate_json({settings(tmp_path).model_dump_json()!r}), die)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [name for name in names(tmp_path) if name.startswith(".data.partial-")]
    with pytest.raises(MTPError, match="not a finished data set"):
        open_dataset(tmp_path / "data/train")
    prepare(settings(tmp_path)).train.verify()
    assert names(tmp_path) == ["corpus", "data"]


def test_long_texts_are_encoded_in_parts_that_change_nothing():
    text = "".join(f"def f{number}(x):\n    return x  # naïve\n\n" for number in range(20_000))
    tokenizer = Tokenizer.train([text[:20_000]], 400)
    several = ["", "short", text, "\n" * 300_000, text[:70_000]]
    found = [ids.tolist() for ids in encode_documents(tokenizer, several)]
    assert found == [tokenizer.encode(entry) for entry in several]
