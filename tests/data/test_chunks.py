"""Cutting a corpus into chunks: everything once, the same on every machine."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp.data.chunks import PIECE_BYTES, make_chunks, sample_pieces, split_pieces
from mtp.data.documents import Columns, FileReport, read_documents
from mtp.errors import UsageError


def report(path, size):
    return FileReport(path, f"/corpus/{path}", size, "sha", size)


reports = st.dictionaries(st.integers(0, 10_000).map(str), st.integers(1, 20 << 20), min_size=2, max_size=40).map(
    lambda sizes: [report(f"{name}.jsonl", size) for name, size in sizes.items()]
)


@given(reports, st.integers(1, 9), st.integers(1, 5000))
def test_every_byte_of_every_file_is_in_one_chunk_of_one_split(files, tenth, rows):
    pieces = split_pieces(files, tenth / 10)
    chunks = make_chunks(pieces, rows_per_shard=rows, seq_len=256)
    found = sorted((piece.path, piece.start, piece.stop) for chunk in chunks for piece in chunk.pieces)
    for path, size in {file.path: file.length for file in files}.items():
        mine = [(start, stop) for name, start, stop in found if name == path]
        assert mine[0][0] == 0 and mine[-1][1] == size
        assert all(before[1] == after[0] for before, after in itertools.pairwise(mine))
    splits = {(chunk.split, piece.path) for chunk in chunks for piece in chunk.pieces}
    assert len(splits) == len(files)


def test_the_cut_does_not_depend_on_the_order_in_which_files_were_found():
    files = [report(f"{number}.py", 40_000 + number) for number in range(300)]
    one = make_chunks(split_pieces(files, 0.05), 4096, 256)
    assert make_chunks(split_pieces(files[::-1], 0.05), 4096, 256) == one
    assert len(one) > 16


def test_a_shard_gets_about_and_at_most_the_asked_rows():
    files = [report(f"{number}.txt", 100_000) for number in range(4000)]
    train = [chunk for chunk in make_chunks(split_pieces(files, 0.01), 2048, 256) if chunk.split == "train"]
    sizes = [chunk.bytes for chunk in train[:-1]]
    assert min(sizes) > 0.9 * 2048 * 256 * 4 and max(sizes) < 1.1 * 2048 * 256 * 4


def test_large_jsonl_files_are_cut_and_large_texts_are_not():
    files = [report("a.jsonl", 10 * PIECE_BYTES), report("b.txt", 10 * PIECE_BYTES)]
    pieces = split_pieces(files, 0.5)
    assert sorted(map(len, (pieces.train, pieces.validation))) == [1, 10]


def test_the_sample_is_bounded_but_never_empty():
    pieces = split_pieces([report(f"{number}.txt", 1000) for number in range(50)], 0.1).train
    assert sum(piece.bytes for piece in sample_pieces(pieces, 10_000)) == 10_000
    assert sample_pieces(pieces, 10) == pieces[:1]


@pytest.mark.parametrize("text", ["line\n" * 400, "né" * 700, "no line end until the very last " * 50 + "\n"])
def test_a_single_text_file_is_cut_between_characters_and_loses_none(tmp_path, text):
    path = tmp_path / "book.txt"
    path.write_text(text)
    size = path.stat().st_size
    pieces = split_pieces([FileReport("book.txt", str(path), size, "sha", size)], 0.1)
    parts = [
        next(read_documents(piece.path, piece.url, piece.start, piece.stop, Columns("text"))).text
        for piece in (*pieces.train, *pieces.validation)
    ]
    assert "".join(parts) == text and 0.05 * size < pieces.validation[0].bytes < 0.2 * size
    assert "only file" in pieces.rule


def test_a_single_text_file_of_one_character_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("€")
    with pytest.raises(UsageError, match="too short to hold out"):
        split_pieces([FileReport("a.txt", str(path), 3, "sha", 3)], 0.5)


def test_a_single_jsonl_file_is_split_by_document_each_on_one_side():
    pieces = split_pieces([report("a.jsonl", 10_000)], 0.3)
    chunks = make_chunks(pieces, 4096, 256)
    keys = [f"a.jsonl#{number}" for number in range(200)]
    sides = [[chunk.split for chunk in chunks if chunk.takes(key)] for key in keys]
    assert all(len(side) == 1 for side in sides)
    assert 30 < sides.count(["validation"]) < 90
