"""Which files a corpus consists of, and which of them are held out for validation.

Knows paths and hashes of paths; opens no file (mtp.data.documents does).
"""

import hashlib
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow.fs as pafs

from mtp.data.storage import Location
from mtp.errors import UsageError

STDLIB = "the standard library of Python {}.{}.{}".format(*sys.version_info[:3])

_NOT_STDLIB = ("test", "tests", "idle_test", "lib2to3", "idlelib", "site-packages", "dist-packages", "__pycache__")


@dataclass(frozen=True, order=True)
class SourceFile:
    """One file of the corpus: `path` relative to the corpus (its identity), `url` where it is read, size in bytes."""

    path: str
    url: str
    size: int


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus, sorted by path; `source` says what it is."""

    source: str
    files: tuple[SourceFile, ...]


def find_corpus(corpus: str | None) -> Corpus:
    """The standard library for None, else the file or folder (or URL) `corpus`, hidden names left out.

    Raises:
        UsageError: it is not there, holds no files, or this Python has no standard-library sources.
    """
    if corpus is None:
        return _standard_library()
    location = Location.of(corpus)
    info = location.info()
    if info.type == pafs.FileType.NotFound:
        raise UsageError(f"the corpus {location} does not exist; set data.corpus to a file or folder of text")
    if info.type == pafs.FileType.File:
        return Corpus(location.url, (SourceFile(location.path.rsplit("/", 1)[-1], location.url, info.size),))
    files = tuple(_walk(location, _is_visible))
    if not any(file.size for file in files):
        raise UsageError(f"the corpus {location} holds no text: {len(files)} files, all empty; add some")
    return Corpus(location.url, files)


def path_hash(path: str) -> int:
    """A number in [0, 2^64) that only the path decides."""
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def is_held_out(path: str, share: float) -> bool:
    """Whether a thing of this name falls into the held-out share."""
    return path_hash(f"held out/{path}") < share * 2**64


def split_paths(paths: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Train and validation paths, by hash; with two paths or more neither side is empty.

    A path's side does not depend on the other paths, but where one side would be empty.
    """
    ranked = sorted(paths, key=lambda path: path_hash(f"held out/{path}"))
    held = sum(is_held_out(path, share) for path in paths)
    if len(ranked) > 1:
        held = min(max(held, 1), len(ranked) - 1)
    return sorted(ranked[held:]), sorted(ranked[:held])


def _standard_library() -> Corpus:
    folder = Location.of(sysconfig.get_paths()["stdlib"])
    files = tuple(file for file in _walk(folder, _is_part_of_stdlib) if file.path.endswith(".py"))
    if not files:
        raise UsageError(
            f"this Python has no standard library sources in {folder} (a frozen or stripped build); "
            f"set data.corpus to a file or folder of text"
        )
    return Corpus(STDLIB, files)


def _is_part_of_stdlib(folder: str) -> bool:
    return folder not in _NOT_STDLIB


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _walk(folder: Location, enter: Callable[[str], bool]) -> list[SourceFile]:
    """Every visible file below `folder` in folders that pass `enter`, by path."""
    base = folder.url.rstrip("/")
    files = sorted(SourceFile(path, f"{base}/{path}", size) for path, size in folder.tree(enter))
    for file in files:
        if any("\ud800" <= character <= "\udfff" for character in file.path):
            raise UsageError(f"the name of {file.url!a} is not UTF-8; rename it")
    return [file for file in files if _is_visible(file.path.rsplit("/", 1)[-1])]
