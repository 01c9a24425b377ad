"""Domains of held-out documents: what prepare records, and the documents of one domain as a data set."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp.config import DataConfig
from mtp.data import open_dataset, read_rows
from mtp.data.domains import DocumentDomain, domain_dataset, encode_domains, largest_domains
from mtp.data.manifest import MANIFEST_NAME, Manifest
from mtp.data.stream.prepare import prepare
from mtp.errors import MTPError, UsageError
from tests.data.datasets import write_dataset, write_split


def documents_in(tokens, document, eos_id):
    """The documents of rows that begin with the start of one, as tuples of ids."""
    ids = tokens.reshape(-1)[document.reshape(-1) >= 0].tolist()
    found, current = [], []
    for token in ids:
        if token == eos_id:
            found.append(tuple(current))
            current = []
        else:
            current.append(token)
    return found


DOCUMENTS = st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 299), min_size=1, max_size=30))


@given(shards=st.lists(st.lists(DOCUMENTS, min_size=1, max_size=6), min_size=1, max_size=3))
def test_a_domain_is_all_its_documents_whole_and_nothing_else(tmp_path_factory, shards):
    dataset = write_split(tmp_path_factory.mktemp("domains"), shards)
    every = [entry for shard in shards for entry in shard]
    for domain in {name for name, _ in every}:
        part = domain_dataset(dataset, domain, max_rows=1000)
        assert documents_in(*part.take(np.arange(part.manifest.rows)), 0) == [
            tuple(ids) for name, ids in every if name == domain
        ]


def test_a_domain_is_cut_at_the_rows_asked_for(tmp_path):
    long = list(range(1, 30))
    dataset = write_split(tmp_path, [[("a", long), ("b", [7]), ("a", long)], [("a", long)]])
    part = domain_dataset(dataset, "a", max_rows=5)
    tokens, _ = read_rows(part)
    assert tokens.flatten().tolist() == [*long, 0, *long, 0][:40]
    assert part.manifest.rows == 5


def test_the_largest_domains_come_by_their_tokens(tmp_path):
    dataset = write_split(tmp_path / "three", [[("few", [1]), ("many", [2] * 20), ("few", [3])], [("some", [4] * 9)]])
    assert largest_domains(dataset, 2) == ["many", "some"]
    assert largest_domains(dataset, 9) == ["many", "some", "few"]
    alone = write_split(tmp_path / "one", [[("only", [1]), ("only", [2])]])
    assert largest_domains(alone, 3) == []
    with pytest.raises(UsageError, match="has no documents of the domain 'none'"):
        domain_dataset(dataset, "none", 3)


def test_a_changed_file_of_domains_is_refused(tmp_path):
    dataset = write_split(tmp_path, [[("a", [1]), ("b", [2])]])
    (tmp_path / "domains.parquet").write_bytes(encode_domains([DocumentDomain("a", 2), DocumentDomain("a", 2)]))
    with pytest.raises(MTPError, match=r"domains\.parquet is corrupt"):
        largest_domains(dataset, 2)


def test_a_data_set_that_was_prepared_before_domains_is_still_whole(tmp_path):
    manifest = write_dataset(tmp_path)
    tree = json.loads((tmp_path / MANIFEST_NAME).read_text())
    del tree["domains"]
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(tree))
    dataset = open_dataset(tmp_path)
    assert dataset.manifest == manifest == Manifest.model_validate(tree)
    with pytest.raises(UsageError, match=r"does not say which domains .* data\.overwrite=true"):
        largest_domains(dataset, 2)


def configured(corpus, path, **settings):
    return DataConfig.model_validate(
        {"corpus": str(corpus), "path": str(path), "seq_len": 16, "vocab_size": 300, **settings}
    )


def held_out_texts(data, domain):
    part = domain_dataset(data.validation, domain, max_rows=10_000)
    rows = part.take(np.arange(part.manifest.rows))
    return sorted(data.validation.tokenizer.decode(list(ids)) for ids in documents_in(*rows, part.manifest.eos_id))


def test_prepare_records_the_source_folder_of_every_held_out_file(ray_cluster, tmp_path):
    corpus = tmp_path / "corpus"
    for folder in ("law/old", "poems", "."):
        (corpus / folder).mkdir(parents=True, exist_ok=True)
        for number in range(20):
            (corpus / folder / f"{number}.txt").write_text(f"text {number} of {folder}\n" * 3)
    data = prepare(configured(corpus, tmp_path / "data", held_out=0.5))
    data.validation.verify()
    assert sorted(largest_domains(data.validation, 9)) == [".", "law", "poems"]
    found = {domain: held_out_texts(data, domain) for domain in (".", "law", "poems")}
    assert all(text.endswith("of law/old\n") for text in found["law"])
    assert all(text.endswith("of poems\n") for text in found["poems"])
    assert sum(map(len, found.values())) == data.validation.manifest.documents
    with pytest.raises(UsageError, match="it is no validation split"):
        largest_domains(data.train, 2)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_prepare_records_the_value_of_a_column(ray_cluster, tmp_path, kind):
    rows = [{"text": f"line {number}", "lang": ("python", "go", None)[number % 3]} for number in range(120)]
    corpus = tmp_path / f"corpus.{kind}"
    if kind == "jsonl":
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), corpus)
    data = prepare(configured(corpus, tmp_path / "data", held_out=0.3, domain_column="lang"))
    assert sorted(largest_domains(data.validation, 9)) == ["go", "python", "unnamed"]
    python = held_out_texts(data, "python")
    assert python and set(python) <= {row["text"] for row in rows if row["lang"] == "python"}
    with pytest.raises(MTPError, match=r"has no (key|column) 'tongue' \(it has text, lang\); set data\.domain_column"):
        prepare(configured(corpus, tmp_path / "other", domain_column="tongue"))
