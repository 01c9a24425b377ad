"""A byte-level BPE over Hugging Face `tokenizers`, with the promises that training and serving rely on.

Any text goes in and comes back unchanged; text that a user types never becomes a special id; ids and text that make
no sense are refused instead of silently dropped. Knows nothing about models, and of files only tokenizer.json.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mtp.errors import UsageError
from mtp.tokenizer.byte_alphabet import spelled_bytes
from mtp.tokenizer.detokenize import DetokenizeStream

END_OF_TEXT = "<|endoftext|>"
FILE_NAME = "tokenizer.json"

# End-of-text tokens by which a tokenizer.json of somebody else's is recognised: ours and GPT's, then DeepSeek's.
_KNOWN_ENDS = (END_OF_TEXT, "<\uff5cend\u2581of\u2581sentence\uff5c>")


class Tokenizer:
    """Text to ids and back.

    Attributes:
        eos_id: ends every document in training data, and every completion.
        vocab_size: ids are 0 .. vocab_size - 1.
    """

    def __init__(self, inner: tokenizers.Tokenizer, origin: str = "tokenizer") -> None:
        inner.encode_special_tokens = True  # not stored in tokenizer.json: user text stays text
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._token_bytes = _bytes_of_tokens(inner, origin)
        self.vocab_size = len(self._token_bytes)
        self.eos_id = _end_of_text_id(inner, origin)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learn a byte-level BPE of at most `vocab_size` entries (256 bytes, end of text, merges).

        A corpus with few distinct pairs gives fewer entries. The result depends only on the texts and their order.
        """
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read `path`, a tokenizer.json or a folder that holds one.

        Raises:
            UsageError: there is none, it is not a byte-level tokenizer, or it names no end of text.
        """
        file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the tokenizer {file}: {_reason(error)}") from None
        return cls.from_json(text, origin=str(file))

    @classmethod
    def from_json(cls, text: str, origin: str = FILE_NAME) -> Self:
        """From the content of a tokenizer.json; `origin` names it in errors."""
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception
            raise UsageError(f"{origin} is not a tokenizer.json: {error}") from None
        return cls(inner, origin)

    def to_json(self) -> str:
        """The content of tokenizer.json; equal tokenizers give equal text."""
        return self._inner.to_str(pretty=True)

    def save(self, path: str | Path) -> Path:
        """Write tokenizer.json into the folder `path` (or as the file `path`, if that ends in .json), atomically."""
        target = Path(path)
        file = target if target.suffix == ".json" else target / FILE_NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(self.to_json())
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
        return file

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no end of text is added, and "<|endoftext|>" typed by a user is thirteen characters.

        Raises:
            UsageError: `text` holds a lone surrogate, which no UTF-8 text can.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in native threads with the interpreter lock released."""
        for text in texts:
            _refuse_lone_surrogate(text)
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special ids are no text, and bytes that are not UTF-8 become U+FFFD.

        Raises:
            UsageError: an id is not in the vocabulary.
        """
        return b"".join(self.token_bytes(token) for token in ids).decode("utf-8", errors="replace")

    def stream(self) -> DetokenizeStream:
        """A detokenizer for ids that arrive over time."""
        return DetokenizeStream(self.token_bytes)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; none for a special id.

        Raises:
            UsageError: the id is not in the vocabulary.
        """
        if not 0 <= token < self.vocab_size:
            raise UsageError(f"token id {token} is not in the vocabulary; ids are 0 to {self.vocab_size - 1}")
        return self._token_bytes[token]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that text never encodes to."""
        return frozenset(self.special_tokens.values())

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Those ids by the name that templates write."""
        added = self._inner.get_added_tokens_decoder()
        return {entry.content: token for token, entry in added.items() if entry.special}

    @cached_property
    def pieces(self) -> list[str]:
        """The text of each id, in order (U+FFFD for parts of characters, "" for special ids)."""
        return [piece.decode("utf-8", errors="replace") for piece in self._token_bytes]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return type(self).from_json, (self.to_json(),)


def _bytes_of_tokens(inner: tokenizers.Tokenizer, origin: str) -> list[bytes]:
    """What each id decodes to, id by id; holes in the numbering decode to nothing."""
    added = inner.get_added_tokens_decoder()
    vocabulary = inner.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in _plain_entries(vocabulary, set(added)):
        spelled = spelled_bytes(token)
        if spelled is None:
            raise UsageError(f"{origin} is not a byte-level tokenizer: its entry {token!r} spells no bytes")
        table[number] = spelled
    for number, entry in added.items():
        table[number] = b"" if entry.special else entry.content.encode("utf-8")
    return table


def _plain_entries(vocabulary: dict[str, int], added: set[int]) -> Iterator[tuple[str, int]]:
    return ((token, number) for token, number in vocabulary.items() if number not in added)


def _end_of_text_id(inner: tokenizers.Tokenizer, origin: str) -> int:
    for name in _KNOWN_ENDS:
        number = inner.token_to_id(name)
        if number is not None:
            return number
    raise UsageError(f"{origin} has none of the end-of-text tokens {', '.join(_KNOWN_ENDS)}; add one to it")


def _refuse_lone_surrogate(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise UsageError(
            f"the text holds a lone surrogate ({code}) at character {error.start}, which is no Unicode character; "
            f"remove it or send the pair"
        ) from None


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8 text"
