"""Opens the files of a corpus: what each is, whether it can be read, and the documents in it.

A text file is one document; a JSONL line and a parquet row are one each. Text and JSONL may be gzipped. Knows formats
of text; knows nothing about tokens, splits or shards.
"""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mtp.data.corpus import SourceFile
from mtp.data.shards import sha256
from mtp.data.storage import Location
from mtp.errors import MTPError

Kind = Literal["text", "jsonl", "parquet"]

_KINDS: dict[str, Kind] = {"jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet", "pq": "parquet"}


class Columns(NamedTuple):
    """Where parquet and JSONL files hold a document's text and, if not in its path, its domain."""

    text: str
    domain: str | None = None

    def settings(self) -> list[tuple[str, str]]:
        """The columns that must be there, each with the setting that names it."""
        return [(self.text, "data.text_column"), *([(self.domain, "data.domain_column")] if self.domain else [])]


@dataclass(frozen=True)
class Document:
    """A document: `key` is its path in the corpus and its place in the file; it decides the document's order."""

    key: str
    text: str
    domain: str = "."


@dataclass(frozen=True)
class Unreadable:
    """A document that was left out."""

    key: str
    reason: str


@dataclass(frozen=True)
class FileReport:
    """What reading a whole file once told.

    Attributes:
        sha256: of the file as it lies there.
        length: what its pieces are measured in: bytes of text, after unzipping; row groups of parquet.
        problem: why the file is left out, or "".
    """

    path: str
    url: str
    size: int
    sha256: str
    length: int
    problem: str = ""


def kind_of(path: str) -> tuple[Kind, bool]:
    """Format by name, and whether it is gzipped; whatever has no known suffix is text."""
    name = path.rsplit("/", 1)[-1].lower()
    zipped = name.endswith(".gz")
    suffix = name.removesuffix(".gz").rsplit(".", 1)[-1]
    return _KINDS.get(suffix, "text"), zipped


def can_be_cut(path: str) -> bool:
    """Whether several tasks can each read a part of the file without reading the rest."""
    kind, zipped = kind_of(path)
    return kind == "parquet" or (kind == "jsonl" and not zipped)


def folder_domain(path: str) -> str:
    """The folder at the top of a path in the corpus; "." for files that lie in none."""
    return path.split("/", 1)[0] if "/" in path else "."


def inspect_file(file: SourceFile, columns: Columns) -> FileReport:
    """Read a file once.

    Raises:
        MTPError: it cannot be opened, or it is parquet without the text column or the domain's.
    """
    content = Location.of(file.url).read()
    kind, zipped = kind_of(file.path)
    length, problem = len(content), ""
    if kind == "parquet":
        length, problem = _inspect_parquet(content, file.url, columns)
    elif zipped:
        try:
            length = len(content := gzip.decompress(content))
        except (OSError, EOFError):
            problem = "not a whole gzip file"
    if kind == "text" and not problem:
        problem = _why_not_text(content)
    return FileReport(file.path, file.url, file.size, sha256(content), length, problem)


def read_documents(path: str, url: str, start: int, stop: int, columns: Columns) -> Iterator[Document | Unreadable]:
    """The documents that begin in [start, stop) of a file, in `FileReport.length`'s unit; empty ones are left out.

    Raises:
        MTPError: the file cannot be read, a JSONL line is not an object, or the text column or the domain's is missing.
    """
    kind, _ = kind_of(path)
    if kind == "parquet":
        yield from _parquet_rows(path, url, range(start, stop), columns)
    elif kind == "jsonl":
        yield from _jsonl_lines(path, url, start, stop, columns)
    else:
        text = text_bytes(path, url)[start:stop].decode("utf-8-sig" if start == 0 else "utf-8")
        if text:
            yield Document(f"{path}#{start}", text, folder_domain(path))


def _why_not_text(content: bytes) -> str:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    return "holds NUL bytes, so it is no text" if b"\0" in content else ""


def text_bytes(path: str, url: str) -> bytes:
    """The bytes of a text or JSONL file, unzipped."""
    content = Location.of(url).read()
    return gzip.decompress(content) if kind_of(path)[1] else content


def _jsonl_lines(path: str, url: str, start: int, stop: int, columns: Columns) -> Iterator[Document | Unreadable]:
    if kind_of(path)[1]:
        stream: io.BufferedIOBase = io.BytesIO(text_bytes(path, url))
    else:
        stream = io.BufferedReader(Location.of(url).open(), 1 << 20)
    with stream:
        if start:
            stream.seek(start - 1)
            stream.readline()  # ends the line that began before `start`: another piece has it
        while (place := stream.tell()) < stop and (line := stream.readline()):
            if line.strip():
                found = _jsonl_document(line, path, place, f"{url} at byte {place}", columns)
                if isinstance(found, Unreadable) or found.text:
                    yield found


def _jsonl_document(line: bytes, path: str, place: int, where: str, columns: Columns) -> Document | Unreadable:
    key = f"{path}#{place}"
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Unreadable(key, "not UTF-8")
    except (ValueError, RecursionError) as error:
        raise MTPError(f"the line of {where} is not JSON ({error}); mend or remove it") from None
    if not isinstance(record, dict):
        raise MTPError(f"the line of {where} is no JSON object but a {type(record).__name__}; mend or remove it")
    for column, setting in columns.settings():
        if column not in record:
            raise MTPError(f"the line of {where} has no key {column!r} (it has {', '.join(record)}); set {setting}")
    domain = record[columns.domain] if columns.domain else folder_domain(path)
    return _document(key, record[columns.text], domain, where, columns)


def _document(key: str, text: object, domain: object, where: str, columns: Columns) -> Document | Unreadable:
    if text is None:
        return Unreadable(key, "null")
    if not isinstance(text, str):
        raise MTPError(f"{columns.text!r} of {where} is a {type(text).__name__}, not text; set data.text_column")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Unreadable(key, "holds a lone surrogate")
    return Document(key, text, "unnamed" if domain in (None, "") else str(domain))


def _inspect_parquet(content: bytes, url: str, columns: Columns) -> tuple[int, str]:
    """Number of row groups, and why the file is left out."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
    except (OSError, pa.ArrowException):
        return 0, "not a parquet file"
    schema = file.schema_arrow
    for column, setting in columns.settings():
        if column not in schema.names:
            raise MTPError(f"{url} has no column {column!r} (it has {', '.join(schema.names)}); set {setting}")
    field = schema.field(columns.text).type
    if not (pa.types.is_string(field) or pa.types.is_large_string(field) or pa.types.is_string_view(field)):
        raise MTPError(f"column {columns.text!r} of {url} holds {field}, not text; set data.text_column")
    return file.num_row_groups, ""


def _parquet_rows(path: str, url: str, groups: range, columns: Columns) -> Iterator[Document | Unreadable]:
    names = [column for column, _ in columns.settings()]
    with Location.of(url).open() as stream:
        file = pq.ParquetFile(stream)
        for group in groups:
            try:
                table = file.read_row_group(group, columns=names)
            except (OSError, pa.ArrowException) as error:
                raise MTPError(f"{url} is corrupt in row group {group}: {error}; mend or remove it") from None
            domains = table[columns.domain].to_pylist() if columns.domain else [folder_domain(path)] * len(table)
            for row, (value, domain) in enumerate(zip(table[columns.text], domains, strict=True)):
                try:
                    text = value.as_py()
                except UnicodeDecodeError:
                    yield Unreadable(f"{path}#{group}.{row}", "not UTF-8")
                    continue
                found = _document(f"{path}#{group}.{row}", text, domain, url, columns)
                if isinstance(found, Unreadable) or found.text:
                    yield found
