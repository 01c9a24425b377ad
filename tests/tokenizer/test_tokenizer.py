"""What the tokenizer promises: text comes back, users cannot type special ids, nonsense is refused."""

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mtp.errors import UsageError
from mtp.tokenizer import END_OF_TEXT, Tokenizer

SAMPLE = ["def f(x):\n    return x + 1\n", "for line in open(path):\n\tprint(line)\n", "naïve — 漢字 🙂\r\n"] * 20
TOKENIZER = Tokenizer.train(SAMPLE, vocab_size=400)

any_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(any_text)
@example("")
@example(" leading, trailing \n\n\t ")
@example("\x00\ufeff\u0301e\u200d🙂")
@example(f"a{END_OF_TEXT}b")
def test_decoding_an_encoding_gives_any_text_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.one_of(any_text, st.just(END_OF_TEXT), st.just("<|endof"))).map("".join))
def test_text_typed_by_a_user_never_becomes_a_special_id(text):
    assert not TOKENIZER.special_ids & set(TOKENIZER.encode(text))


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_a_stream_of_any_ids_gives_the_text_of_decoding_them_at_once(ids):
    stream = TOKENIZER.stream()
    text = "".join(stream.push([token]) for token in ids) + stream.finish()
    assert text == TOKENIZER.decode(ids)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_decoding_agrees_with_the_library(ids):
    assert TOKENIZER.decode(ids) == TOKENIZER._inner.decode(ids, skip_special_tokens=True)


def test_a_stream_holds_back_a_character_in_pieces():
    stream, ids = TOKENIZER.stream(), TOKENIZER.encode("€")
    assert len(ids) == 3
    assert [stream.push([token]) for token in ids] == ["", "", "€"]
    stream.push(ids[:1])
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_the_batch_gives_what_single_texts_give():
    assert TOKENIZER.encode_batch(SAMPLE) == [TOKENIZER.encode(text) for text in SAMPLE]


@pytest.mark.parametrize("token", [-1, TOKENIZER.vocab_size, 999_999])
def test_an_id_outside_the_vocabulary_is_refused_by_name(token):
    with pytest.raises(UsageError, match=f"token id {token} .* 0 to {TOKENIZER.vocab_size - 1}"):
        TOKENIZER.decode([5, token])


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(UsageError, match=r"U\+D83D\) at character 2"):
        TOKENIZER.encode("ab\ud83dc")


def test_the_end_of_text_is_an_id_that_stands_for_no_text():
    assert TOKENIZER.eos_id in TOKENIZER.special_ids
    assert TOKENIZER.decode([TOKENIZER.eos_id]) == ""
    assert TOKENIZER.pieces[TOKENIZER.eos_id] == ""


def test_training_is_the_same_every_time_and_fills_at_most_the_asked_entries():
    again = Tokenizer.train(iter(SAMPLE), vocab_size=400)
    assert again == TOKENIZER and 257 < again.vocab_size <= 400
    assert Tokenizer.train([], vocab_size=1000).vocab_size == 257


def test_a_saved_tokenizer_loads_equal_from_its_file_and_its_folder(tmp_path):
    file = TOKENIZER.save(tmp_path / "model")
    assert file.name == "tokenizer.json"
    assert [entry.name for entry in file.parent.iterdir()] == ["tokenizer.json"]
    for path in (file, file.parent, str(file)):
        loaded = Tokenizer.load(path)
        assert loaded == TOKENIZER
        assert not loaded.special_ids & set(loaded.encode(END_OF_TEXT))


def test_a_pickled_tokenizer_still_refuses_special_ids_in_text():
    copy = pickle.loads(pickle.dumps(TOKENIZER))
    assert not copy.special_ids & set(copy.encode(END_OF_TEXT))


def test_a_missing_or_foreign_file_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the tokenizer .*tokenizer\.json: No such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json is not a tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_without_an_end_of_text_is_refused():
    import tokenizers

    with pytest.raises(UsageError, match="end-of-text"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))


def test_a_tokenizer_that_is_not_byte_level_is_refused():
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"漢": 0, END_OF_TEXT: 1}, unk_token=END_OF_TEXT))
    words.add_special_tokens([END_OF_TEXT])
    with pytest.raises(UsageError, match="not a byte-level"):
        Tokenizer(words)


def test_transformers_reads_the_saved_file_and_agrees(tmp_path):
    transformers = pytest.importorskip("transformers")
    file = TOKENIZER.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
    assert theirs(SAMPLE[2]).input_ids == TOKENIZER.encode(SAMPLE[2])
