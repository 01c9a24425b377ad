"""Decides what a prepare does with something that already lies at its path: reuse, replace, or refuse.

Knows manifests; knows nothing about making data sets.
"""

from mtp.data.manifest import MANIFEST_NAME
from mtp.data.prepared import PreparedDataset, open_dataset
from mtp.data.publication import SPLITS, refuse_foreign_folder
from mtp.data.storage import Location
from mtp.errors import MTPError, UsageError


def find_existing(
    target: Location, fingerprint: str, overwrite: bool
) -> tuple[PreparedDataset, PreparedDataset] | None:
    """Train and validation of a finished data set with this corpus fingerprint; None if it is to be made.

    Raises:
        UsageError: something else is there, and `overwrite` is not set or would destroy more than a data set.
    """
    refuse_foreign_folder(target)
    if not any((target / split).names() for split in SPLITS):
        return None
    if not target.is_local and not (target / SPLITS[0] / MANIFEST_NAME).exists():
        return None  # what a killed prepare leaves on an object store, where nothing is renamed
    try:
        train, validation = _whole(target)
    except MTPError as error:
        if overwrite:
            return None
        raise UsageError(f"{error}; set data.overwrite=true to replace {target}, or another data.path") from None
    if train.manifest.corpus.fingerprint == fingerprint:
        return train, validation
    if overwrite:
        return None
    raise UsageError(
        f"{target} holds a data set of another corpus or other settings (from {train.manifest.corpus.source}); "
        f"set data.overwrite=true to replace it, or another data.path"
    )


def _whole(target: Location) -> tuple[PreparedDataset, PreparedDataset]:
    train, validation = (open_dataset(target / split) for split in SPLITS)
    train.check_sizes()
    validation.check_sizes()
    return train, validation
