"""Which files make a corpus, what is read of each, and what is held out."""

import gzip
import itertools
import json
import sysconfig

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp.data.corpus import SourceFile, find_corpus, split_paths
from mtp.data.documents import Columns, Document, Unreadable, inspect_file, read_documents
from mtp.errors import MTPError, UsageError


def inspect(path, column="text"):
    return inspect_file(SourceFile(path.name, str(path), path.stat().st_size), Columns(column))


def read(path, column="text", start=0, stop=None):
    stop = inspect(path, column).length if stop is None else stop
    return list(read_documents(path.name, str(path), start, stop, Columns(column)))


def test_the_default_corpus_is_the_standard_library_without_tests_and_installed_packages():
    corpus = find_corpus(None)
    paths = [file.path for file in corpus.files]
    assert "json/decoder.py" in paths and "standard library of Python 3" in corpus.source
    assert not [path for path in paths if path.startswith(("test/", "idlelib/", "lib2to3/", "site-packages/"))]


def test_a_python_without_sources_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UsageError, match=r"no standard library sources.*set data.corpus"):
        find_corpus(None)


def test_a_folder_is_read_to_the_bottom_without_hidden_names_and_link_loops(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("x.txt", "a/b/y.md", ".hidden", ".git/config"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [(file.path, file.size) for file in find_corpus(str(tmp_path)).files] == [("a/b/y.md", 8), ("x.txt", 5)]


def test_a_missing_or_empty_corpus_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"corpus .*nowhere does not exist; set data\.corpus"):
        find_corpus(str(tmp_path / "nowhere"))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UsageError, match="holds no text: 1 files, all empty"):
        find_corpus(str(tmp_path))


@given(st.sets(st.text(min_size=1), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_neither_side_of_the_split_is_ever_empty(paths, share):
    train, validation = split_paths(sorted(paths), share)
    assert train and validation and sorted(train + validation) == sorted(paths)


def test_a_file_stays_on_its_side_when_others_come():
    paths = [f"{number}.py" for number in range(200)]
    few = split_paths(paths[:100], 0.1)
    many = split_paths(paths, 0.1)
    assert set(few[0]) <= set(many[0]) and set(few[1]) <= set(many[1])
    assert 8 < len(many[1]) < 36


def test_a_text_file_is_one_document_without_its_byte_order_mark(tmp_path):
    (tmp_path / "a.md").write_bytes("\ufeffnaïve\r\n".encode())
    assert read(tmp_path / "a.md") == [Document("a.md#0", "naïve\r\n")]


@pytest.mark.parametrize(
    ("content", "problem"), [(b"ab\xff", "not UTF-8 at byte 2"), (b"\x7fELF\0", "holds NUL bytes, so it is no text")]
)
def test_a_file_that_is_no_text_is_left_out_with_its_reason(tmp_path, content, problem):
    (tmp_path / "a.bin").write_bytes(content)
    assert inspect(tmp_path / "a.bin").problem == problem


def test_gzipped_text_and_jsonl_are_read_and_torn_ones_left_out(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"hello"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"hello" * 100)[:-12])
    assert [document.text for document in read(tmp_path / "a.txt.gz")] == ["hello"]
    assert [document.text for document in read(tmp_path / "b.jsonl.gz")] == ["one", "two"]
    assert inspect(tmp_path / "c.txt.gz").problem == "not a whole gzip file"


@given(st.lists(st.text(), max_size=8), st.lists(st.integers(0, 200), max_size=4))
def test_pieces_of_a_jsonl_file_give_every_line_once(tmp_path_factory, texts, cuts):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    path.write_text("\n\n".join(json.dumps({"text": text}) for text in texts))
    size = path.stat().st_size
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    pieces = [read(path, start=start, stop=stop) for start, stop in itertools.pairwise(edges)]
    found = [document for piece in pieces for document in piece]
    expected = [text for text in texts if text]
    assert [entry.text for entry in found if isinstance(entry, Document)] == [
        text for text in expected if not any("\ud800" <= character <= "\udfff" for character in text)
    ]
    assert len({entry.key for entry in found}) == len(found)


def test_jsonl_lines_that_hold_no_text_are_counted_or_refused_by_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n{"text": "\\ud800"}\n{"text": null}\n')
    assert [entry.reason for entry in read(path) if isinstance(entry, Unreadable)] == [
        "not UTF-8",
        "holds a lone surrogate",
        "null",
    ]
    for line, message in {
        b"{nonsense": r"a\.jsonl at byte 0 is not JSON",
        b'{"body": "x", "id": 1}': r"no key 'text' \(it has body, id\); set data\.text_column",
        b"[1]": r"is no JSON object but a list; mend or remove it",
        b'{"text": 5}': "'text' of .* is a int, not text",
        b"[" * 100_000: "is not JSON",
    }.items():
        path.write_bytes(line)
        with pytest.raises(MTPError, match=message):
            read(path)


def test_parquet_rows_are_documents_and_groups_can_be_read_apart(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["one", "", None, "two", "three"], "n": range(5)}), path, row_group_size=2)
    assert inspect(path, "body").length == 3
    assert [entry.text for entry in read(path, "body") if isinstance(entry, Document)] == ["one", "two", "three"]
    assert [entry.key for entry in read(path, "body", start=1)] == ["a.parquet#1.0", "a.parquet#1.1", "a.parquet#2.0"]


def test_parquet_without_the_text_column_is_refused_with_the_columns_it_has(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), path)
    with pytest.raises(MTPError, match=r"a\.parquet has no column 'text' \(it has body, n\); set data\.text_column"):
        inspect(path)
    with pytest.raises(MTPError, match=r"column 'n' of .* holds int64, not text"):
        inspect(path, "n")


def test_a_file_that_is_parquet_only_by_name_is_left_out(tmp_path):
    (tmp_path / "a.parquet").write_text("hello")
    assert inspect(tmp_path / "a.parquet").problem == "not a parquet file"
