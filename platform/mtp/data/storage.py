"""Where data lies: a local folder, or any URL that pyarrow or fsspec opens, behind one small class.

Knows bytes and names; knows nothing about manifests, shards or text.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from mtp.errors import MTPError, UsageError


@dataclass(frozen=True)
class Location:
    """A folder or file on a pyarrow filesystem.

    Attributes:
        url: as a user would write it, absolute; names the place in errors and travels to other processes.
    """

    url: str
    filesystem: pafs.FileSystem = field(compare=False, repr=False)
    path: str = field(compare=False, repr=False)

    @classmethod
    def of(cls, path: "str | Path | Location") -> "Location":
        """From a local path (made absolute), a `file://` URL, or another URL.

        Raises:
            UsageError: no filesystem is known for the URL.
        """
        if isinstance(path, Location):
            return path
        text = str(path).removeprefix("file://")
        if "://" not in text:
            local = str(Path(text).expanduser().absolute())
            return cls(local, pafs.LocalFileSystem(), local)
        filesystem, inside = _remote(text)
        return cls(text.rstrip("/"), filesystem, inside.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether this machine's own calls (rename, fsync, lock) work here."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def __truediv__(self, name: str) -> "Location":
        return Location(f"{self.url}/{name}", self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Location.of, (self.url,)

    def info(self) -> pafs.FileInfo:
        """Type and size; type NotFound if nothing is there."""
        with _naming(self):
            return self.filesystem.get_file_info(self.path)

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return self.info().type != pafs.FileType.NotFound

    def names(self) -> list[str]:
        """Names in this folder, sorted; none if it is not there."""
        with _naming(self):
            entries = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(entry.base_name for entry in entries)

    def tree(self, enter: Callable[[str], bool]) -> list[tuple[str, int]]:
        """Every file below this folder: its path relative to it, and its size.

        Only folders whose name passes `enter` are looked into, and no links to folders.
        """
        if self.is_local:
            return _local_tree(Path(self.path), enter)
        with _naming(self):
            entries = self.filesystem.get_file_info(pafs.FileSelector(self.path, recursive=True))
        prefix = self.path.rstrip("/") + "/"
        files = [(file.path.removeprefix(prefix), file.size) for file in entries if file.type == pafs.FileType.File]
        return [(path, size) for path, size in files if all(enter(folder) for folder in path.split("/")[:-1])]

    def open(self) -> pa.NativeFile:
        """The file, for reading at any offset."""
        with _naming(self):
            return self.filesystem.open_input_file(self.path)

    def read(self) -> bytes:
        """The whole file."""
        with _naming(self), self.filesystem.open_input_file(self.path) as file:
            return file.read()

    def write(self, content: "bytes | pa.Buffer") -> None:
        """Write the whole file; on a local disk it is there complete or not at all, and survives a power cut."""
        with _naming(self):
            if self.is_local:
                _write_local(Path(self.path), content)
                return
            with self.filesystem.open_output_stream(self.path) as file:
                file.write(content)

    def delete_file(self) -> None:
        """Delete the file."""
        with _naming(self):
            self.filesystem.delete_file(self.path)


class _naming:  # noqa: N801 - reads as a phrase in `with _naming(self)`
    """Turns an OSError of pyarrow or fsspec into a sentence that names the place."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise MTPError(f"{self.location} does not exist") from None
        if isinstance(error, OSError):
            reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
            raise MTPError(f"cannot access {self.location}: {reason}") from None


def _remote(url: str) -> tuple[pafs.FileSystem, str]:
    try:
        return pafs.FileSystem.from_uri(url)
    except pa.ArrowInvalid:
        pass  # not one of pyarrow's own schemes
    import fsspec  # type: ignore[import-untyped]

    try:
        filesystem, inside = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(f"no filesystem opens {url}: {error}") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), inside


def _local_tree(top: Path, enter: Callable[[str], bool]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(top / folder) as entries:
                for entry in entries:
                    path = f"{folder}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        folders += [f"{path}/"] if enter(entry.name) else []
                    elif entry.is_file():
                        found.append((path, entry.stat().st_size))
        except OSError as error:
            raise MTPError(f"cannot list {top / folder}: {error.strerror}") from None
    return found


def _write_local(path: Path, content: "bytes | pa.Buffer") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames and new names in a local folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
