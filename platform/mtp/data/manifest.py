"""manifest.json: what a prepared data set consists of, written last, so that its presence means completeness.

Knows the fields and their integrity; knows nothing about reading shards or making them.
"""

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mtp.data.storage import Location
from mtp.errors import MTPError

FORMAT_VERSION: Literal[1] = 1
MANIFEST_NAME = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardRecord(_Record):
    """One shard file."""

    name: str
    rows: int
    tokens: int
    """Positions that are not padding, ends of documents included."""
    documents: int
    bytes: int
    sha256: str


class FileRecord(_Record):
    """Another file of the data set."""

    name: str
    sha256: str


class SkippedFile(_Record):
    """A file of the corpus, or a document (`path#place`), that was left out."""

    path: str
    reason: str


class CorpusRecord(_Record):
    """The text that the data set was made from."""

    source: str
    files: int
    bytes: int
    documents: int
    skipped_files: int = 0
    skipped_documents: int = 0
    skipped: tuple[SkippedFile, ...] = ()
    """The first of them, whole files first."""
    fingerprint: str
    """Of every path and content of the corpus and of the settings; the same for both splits."""


class Manifest(_Record):
    """What `manifest.json` holds."""

    format_version: Literal[1] = FORMAT_VERSION
    split: Literal["train", "validation"]
    seq_len: int
    dtype: Literal["uint16", "uint32"]
    vocab_size: int
    eos_id: int
    rows: int
    tokens: int
    documents: int
    group_rows: int
    """Rows in a parquet row group; the last of a shard may have fewer."""
    shards: tuple[ShardRecord, ...]
    tokenizer: FileRecord
    token_counts: FileRecord
    domains: FileRecord | None = None
    """Which domain each document belongs to (mtp.data.domains); of the validation split."""
    corpus: CorpusRecord
    fingerprint: str = ""
    """Of all the above: names this data set in runs, and seeds the row order."""

    def sealed(self) -> Self:
        """A copy with its fingerprint filled in."""
        return self.model_copy(update={"fingerprint": self._digest()})

    def to_bytes(self) -> bytes:
        """The file's content."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    def group_sizes(self) -> list[int]:
        """Rows of every row group, shard by shard."""
        sizes = []
        for shard in self.shards:
            whole, rest = divmod(shard.rows, self.group_rows)
            sizes += [self.group_rows] * whole + ([rest] if rest else [])
        return sizes

    def _digest(self) -> str:
        content = self.model_dump(mode="json", exclude={"fingerprint"}, exclude_none=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Location) -> Manifest:
    """The manifest in `folder`, checked against its own fingerprint.

    Raises:
        MTPError: there is none, its format is another version's, or it was damaged or edited.
    """
    place = folder / MANIFEST_NAME
    if not place.exists():
        raise MTPError(
            f"{place} does not exist, so {folder} is not a finished data set; run `mtp prepare`, "
            f"or point data.path at one"
        )
    try:
        tree = json.loads(place.read())
    except ValueError:
        raise MTPError(f"{place} is not JSON: it was damaged; prepare the data set again") from None
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION:
        raise MTPError(
            f"{place} has format version {version!r} and this mtp reads {FORMAT_VERSION}; "
            f"prepare the data set again with this version"
        )
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise MTPError(f"{place} is damaged at {field!r}; prepare the data set again") from None
    if manifest.fingerprint != manifest.sealed().fingerprint:
        raise MTPError(f"{place} does not match its own fingerprint: it was damaged or edited; prepare again")
    return manifest
