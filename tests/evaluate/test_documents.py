import torch

from mtp.data import open_dataset, read_rows
from mtp.data.packing import pack_documents
from mtp.evaluate.documents import documents_of_rows, whole_documents, windows_of

DOCUMENTS = [[1, 2], [3] * 9, [4, 5, 6], [7], [8] * 5]
"""Their ends (id 0) are added by the packing."""


def packed(seq_len):
    tokens, document = pack_documents(DOCUMENTS, seq_len, eos_id=0, vocab_size=16)
    return torch.from_numpy(tokens.astype("int64")), torch.from_numpy(document)


def test_packed_documents_come_back_whole():
    for seq_len in (2, 3, 4, 8, 64):
        found = [ids.tolist() for _, ids in whole_documents(*packed(seq_len), eos_id=0)]
        assert found == [[*document, 0] for document in DOCUMENTS]


def test_every_row_range_has_the_documents_that_begin_in_it(dataset):
    data = open_dataset(dataset)
    rows = 12
    everything = [ids.tolist() for _, ids in whole_documents(*read_rows(data, limit=rows), data.manifest.eos_id)]
    for size in (1, 4, 5):
        ranges = [(start, min(start + size, rows)) for start in range(0, rows, size)]
        pieces = [ids.tolist() for start, stop in ranges for ids in documents_of_rows(data, start, stop, rows)]
        assert pieces == everything


def test_a_long_document_is_read_in_overlapping_windows_and_each_token_counts_once():
    windows = windows_of([torch.arange(10)], window=6, stride=4)
    assert windows.tokens.tolist() == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
    assert windows.countable.tolist() == [[True] * 6, [False, False, True, True, True, True]]


def test_short_documents_share_a_row_but_not_their_context():
    windows = windows_of([torch.tensor([1, 2]), torch.tensor([3, 4, 5]), torch.tensor([6, 7])], window=6, stride=3)
    assert windows.tokens.tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 0, 0, 0, 0]]
    assert windows.document.tolist() == [[0, 0, 1, 1, 1, -1], [0, 0, -1, -1, -1, -1]]
    assert windows.countable.sum() == 7
