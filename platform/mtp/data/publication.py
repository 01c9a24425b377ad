"""Makes a data set of two splits appear all at once, or not at all.

On a local disk everything is written into a hidden sibling folder that is renamed into place; a lock tells a prepare
that still runs from the remains of one that was killed. On an object store, which renames nothing, files go to their
final names and the manifests are written last. Knows names and locks; knows nothing about what the files hold.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from mtp.data.chunks import Split
from mtp.data.manifest import MANIFEST_NAME, Manifest
from mtp.data.storage import Location, sync_folder
from mtp.errors import MTPError, UsageError

SPLITS: tuple[Split, Split] = ("train", "validation")


class Publication:
    """A data set in the making.

    Attributes:
        target: where it will appear.
        workspace: where its files are written until `publish`; `workspace / split` is a split's folder.
    """

    def __init__(self, target: Location, workspace: Location) -> None:
        self.target = target
        self.workspace = workspace

    def publish(self, manifests: dict[Split, Manifest]) -> None:
        """Write the manifests (by split) and let the data set appear in place of any older one."""
        if not self.target.is_local:
            for split in reversed(SPLITS):  # train last: it is what readers look for first
                (self.target / split / MANIFEST_NAME).write(manifests[split].to_bytes())
            return
        for split in SPLITS:
            (self.workspace / split / MANIFEST_NAME).write(manifests[split].to_bytes())
        _swap(Path(self.workspace.path), Path(self.target.path))


@contextlib.contextmanager
def publication(target: Location) -> Iterator[Publication]:
    """Room to write a data set that will appear at `target`; gone again if `publish` was not reached.

    Raises:
        MTPError: another prepare is writing to the same place (local disks only).
    """
    if not target.is_local:
        _clear_object_store(target)
        yield Publication(target, target)
        return
    folder = Path(target.path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        _delete_remains(folder)
        workspace = folder.with_name(f".{folder.name}.partial-{uuid.uuid4().hex[:8]}")
        workspace.mkdir()
        try:
            yield Publication(target, Location.of(workspace))
        finally:
            shutil.rmtree(workspace, ignore_errors=True)  # after publish it is no longer there


def refuse_foreign_folder(target: Location) -> None:
    """Raise UsageError if something that no prepare wrote lies at `target` and would be lost.

    An empty folder, and one that holds nothing but splits, may be replaced.
    """
    info = target.info()
    if info.type == pafs.FileType.File:
        raise UsageError(f"data.path {target} is a file; give a folder that does not exist yet")
    strangers = [name for name in target.names() if name not in SPLITS] if target.exists() else []
    if strangers:
        raise UsageError(
            f"data.path {target} holds other things ({', '.join(strangers[:3])}) and would be replaced as a whole; "
            f"give a folder of its own"
        )


def _swap(workspace: Path, target: Path) -> None:
    """Put `workspace` where `target` is; a kill in between leaves no data set rather than half of one."""
    for split in SPLITS:
        sync_folder(workspace / split)
    if target.exists():
        old = target.with_name(f".{target.name}.old-{uuid.uuid4().hex[:8]}")
        target.rename(old)
        workspace.rename(target)
        shutil.rmtree(old)
    else:
        workspace.rename(target)
    sync_folder(target.parent)


def _delete_remains(folder: Path) -> None:
    """Delete what a killed prepare of the same folder left; the lock is held, so nobody is writing it."""
    for kind in ("partial", "old"):
        for remains in folder.parent.glob(f".{folder.name}.{kind}-*"):
            shutil.rmtree(remains)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a data set's folder; the kernel frees it when the process dies."""
    place = folder.with_name(f".{folder.name}.lock")
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise MTPError(f"cannot lock {place}: {error.strerror}") from None
            raise MTPError(f"another prepare is writing {folder}; wait for it, or stop it") from None
        if place.exists() and os.path.samestat(os.fstat(handle), place.stat()):
            break
        os.close(handle)  # the former holder deleted the file between our open and our lock
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        os.close(handle)


def _clear_object_store(target: Location) -> None:
    """Delete an older or unfinished data set, manifests first, so that no reader takes the rest for whole."""
    for split in SPLITS:
        if (target / split / MANIFEST_NAME).exists():
            (target / split / MANIFEST_NAME).delete_file()
    for split in SPLITS:
        for name in (target / split).names():
            (target / split / name).delete_file()
