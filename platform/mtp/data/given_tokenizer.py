"""Finds the tokenizer that a prepare was told to use, so that data sets of several corpora can be mixed."""

from mtp.data.storage import Location
from mtp.errors import UsageError
from mtp.tokenizer import Tokenizer

FILE_NAME = "tokenizer.json"


def given_tokenizer(place: str, vocab_size: int) -> Tokenizer:
    """The tokenizer at `place`: a tokenizer.json, a folder or URL that holds one, or a prepared data set.

    Raises:
        UsageError: there is none, it is not a byte-level tokenizer, or it has more than `vocab_size` entries.
    """
    location = Location.of(place)
    for candidate in (location, location / FILE_NAME, location / "train" / FILE_NAME):
        if candidate.url.endswith(".json") and candidate.exists():
            tokenizer = Tokenizer.from_json(candidate.read().decode(errors="replace"), str(candidate))
            if tokenizer.vocab_size > vocab_size:
                raise UsageError(
                    f"{candidate} has {tokenizer.vocab_size} entries, but data.vocab_size is {vocab_size}; "
                    f"set data.vocab_size and model.vocab_size to {tokenizer.vocab_size}"
                )
            return tokenizer
    raise UsageError(f"data.tokenizer {location} holds no {FILE_NAME}; give a prepared data set or a tokenizer.json")
