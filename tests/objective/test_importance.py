import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtp.config.objective import ImportanceConfig
from mtp.errors import MTPError
from mtp.objective import token_importance
from mtp.objective.importance import is_function_word


def importance(counts, pieces=None, **config):
    return token_importance(
        ImportanceConfig(**config), torch.tensor(counts), pieces or [str(i) for i in range(len(counts))]
    )


@given(
    counts=st.lists(st.integers(0, 10**9), min_size=1, max_size=60).filter(any),
    kind=st.sampled_from(["uniform", "inverse_frequency", "content_words"]),
    clip=st.floats(1.1, 100),
)
@settings(max_examples=150, deadline=None)
def test_weights_have_mean_one_over_the_corpus(counts, kind, clip):
    pieces = ["Ġthe" if i % 3 else f"Ġnoun{i}" for i in range(len(counts))]
    weights = importance(counts, pieces, kind=kind, clip=clip)
    counts = torch.tensor(counts, dtype=torch.float64)
    assert float((weights.double() * counts).sum() / counts.sum()) == pytest.approx(1.0, rel=1e-5)
    assert (weights > 0).all()
    if kind == "inverse_frequency":
        assert weights.min() >= 1 / clip * (1 - 1e-5)
        assert weights.max() <= clip * (1 + 1e-5)


def test_uniform_is_one():
    assert importance([5, 1, 0]).tolist() == [1.0, 1.0, 1.0]


def test_inverse_frequency_is_inverse_where_it_is_not_clipped():
    weights = importance([100, 50, 25], kind="inverse_frequency", clip=5)
    assert weights[1] / weights[0] == pytest.approx(2)
    assert weights[2] / weights[1] == pytest.approx(2)


def test_a_token_that_never_occurs_weighs_the_clip():
    assert importance([1000, 1000, 0], kind="inverse_frequency", clip=3)[2] == pytest.approx(3)


def test_function_words_weigh_less_in_every_spelling_of_byte_level_bpe():
    pieces = ["the", "Ġthe", "ĠThe", "ĊThe", "Ġcat", "theory", "Ġtheory", "Ġ", "of", "▁of", "."]
    weights = importance([1] * len(pieces), pieces, kind="content_words", function_word_weight=0.25)
    light = [piece for piece, weight in zip(pieces, weights / weights[4], strict=True) if weight < 1]
    assert light == ["the", "Ġthe", "ĠThe", "ĊThe", "of", "▁of"]
    assert weights[0] / weights[4] == pytest.approx(0.25)


def test_the_list_of_function_words_can_be_replaced():
    weights = importance([1, 1], ["Ġder", "Ġthe"], kind="content_words", function_words=("Der",))
    assert weights[0] < weights[1]


@pytest.mark.parametrize("word", ["a", "An", "between", "they", "whose", "would", "n't", "because"])
def test_english_closed_classes_are_function_words(word):
    assert is_function_word("Ġ" + word)


@pytest.mark.parametrize("word", ["house", "run", "red", "def", "return", "quickly", "", "2"])
def test_words_with_a_meaning_of_their_own_are_not(word):
    assert not is_function_word("Ġ" + word)


def test_counts_of_another_vocabulary_are_refused():
    with pytest.raises(MTPError, match="3 tokens and 2 pieces"):
        importance([1, 1, 1], ["a", "b"])


def test_an_empty_corpus_is_refused():
    with pytest.raises(MTPError, match="every count is 0"):
        importance([0, 0])
