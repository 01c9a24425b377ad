"""A tokenizer of 48 entries for the tiny models: end of text, single characters, and a few longer pieces."""

from functools import cache

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mtp.tokenizer import END_OF_TEXT, Tokenizer
from tests.decode.tiny import VOCAB

LONGER = [("a", "b"), ("ab", "c"), ("{", '"'), ('"', ":"), ("1", "2")]


@cache
def letters() -> Tokenizer:
    joined = [left + right for left, right in LONGER]
    single = list('abcdefghijklmnopqr/0123456789{}[]":,-.+<>=')[: VOCAB - 1 - len(joined)]
    vocabulary = {piece: number for number, piece in enumerate([END_OF_TEXT, *single, *joined])}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=LONGER))
    inner.add_special_tokens([END_OF_TEXT])
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return Tokenizer(inner)
