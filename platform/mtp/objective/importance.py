"""Token importance w(x): how much a token counts as a target, wherever it stands.

Weights have mean 1 over the corpus, so that the size of the loss and of its gradients stays that of the unweighted
one. Knows counts and the vocabulary's pieces; knows nothing of tokenizers, rows or losses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp.config.objective import ImportanceConfig
from mtp.errors import MTPError
from mtp.objective.function_words import ENGLISH_FUNCTION_WORDS

# Byte-level BPE writes a space as Ġ, a newline as Ċ, a tab as ĉ and a carriage return as č; SentencePiece a space as ▁.
_WHITESPACE_MARKS = "ĠĊĉč▁"


def token_importance(config: ImportanceConfig, counts: Tensor, pieces: Sequence[str]) -> Tensor:
    """(V,) float32 weights, with sum(counts * w) = sum(counts).

    `uniform` is 1 everywhere; `inverse_frequency` is proportional to 1 / count, held within [1 / clip, clip];
    `content_words` gives function words `function_word_weight` times the weight of the others.

    Args:
        config: the kind and its options.
        counts: (V,) how often each token occurs in the corpus.
        pieces: the V pieces of the vocabulary, as the tokenizer spells them ("Ġthe").

    Raises:
        MTPError: counts and pieces differ in length, or the corpus is empty.
    """
    if len(counts) != len(pieces):
        raise MTPError(
            f"token importance got counts of {len(counts)} tokens and {len(pieces)} pieces; "
            f"take both from the same prepared data set"
        )
    if not counts.sum() > 0:
        raise MTPError("token importance needs a corpus with tokens, but every count is 0; prepare the data again")
    counts = counts.to(torch.float64)
    match config.kind:
        case "uniform":
            weights = torch.ones_like(counts)
        case "inverse_frequency":
            weights = _inverse_frequency(counts, config.clip)
        case "content_words":
            words = config.function_words
            weights = _content_words(pieces, config.function_word_weight, words or ENGLISH_FUNCTION_WORDS)
    return (weights * (counts.sum() / (weights * counts).sum())).to(torch.float32)


def is_function_word(piece: str, words: frozenset[str] | Sequence[str] = ENGLISH_FUNCTION_WORDS) -> bool:
    """Whether a piece of the vocabulary spells a function word, in any case and with or without a space before it.

    "ĠThe", "the" and "▁the" are; "Ġthey'd" is not one piece's word, nor is "Ġtheory". The piece alone is seen, so the
    "in" of "in|side" counts too.
    """
    return piece.strip(_WHITESPACE_MARKS + " \t\n\r").lower() in words


def _inverse_frequency(counts: Tensor, clip: float) -> Tensor:
    """clamp(a / count, 1/clip, clip) with the a that makes the corpus mean 1, by bisection on log a."""
    share = counts / counts.sum()
    rarity = 1.0 / share.clamp_min(torch.finfo(share.dtype).tiny)
    present = rarity[counts > 0]
    low, high = -present.max().log() - 10.0, present.min().log() + 10.0
    low, high = low - torch.tensor(clip).log(), high + torch.tensor(clip).log()
    for _ in range(100):
        middle = (low + high) / 2
        mean = (share * (rarity * middle.exp()).clamp(1 / clip, clip)).sum()
        low, high = (middle, high) if mean < 1 else (low, middle)
    return (rarity * low.exp()).clamp(1 / clip, clip)


def _content_words(pieces: Sequence[str], function_word_weight: float, words: frozenset[str] | Sequence[str]) -> Tensor:
    lowered = frozenset(word.lower() for word in words)
    weights = [function_word_weight if is_function_word(piece, lowered) else 1.0 for piece in pieces]
    return torch.tensor(weights, dtype=torch.float64)
