"""Which checkpoints of a run stay: the newest ones, and the best by held-out loss.

Asked only when a new checkpoint is whole, so that whatever fails before leaves every earlier one in place. Knows
manifests; knows nothing of how checkpoints are written.
"""

from pyarrow.fs import FileSystem

from mtp.config.train import CheckpointConfig
from mtp.train.manifest import Manifest, checkpoints, read_manifest

HELD_OUT_LOSS = "eval/loss_h1"
"""What makes a checkpoint the best: the lowest."""


def drop_superseded(filesystem: FileSystem, run_folder: str, config: CheckpointConfig) -> list[str]:
    """Remove the checkpoints that need not stay; their names.

    Raises:
        OSError: one could not be removed.
    """
    found = {name: read_manifest(filesystem, f"{run_folder}/{name}") for name in checkpoints(filesystem, run_folder)}
    staying = staying_names(found, config)
    leaving = [name for name in found if name not in staying]
    for name in leaving:
        filesystem.delete_dir(f"{run_folder}/{name}")
    return leaving


def staying_names(found: dict[str, Manifest | None], config: CheckpointConfig) -> set[str]:
    """The names to keep of `found`, which is sorted newest first; one without a manifest was never finished."""
    whole = {name: manifest for name, manifest in found.items() if manifest is not None}
    staying = set(list(whole)[: config.keep])
    measured = {
        name: manifest.metrics[HELD_OUT_LOSS] for name, manifest in whole.items() if HELD_OUT_LOSS in manifest.metrics
    }
    if config.keep_best and measured:
        staying.add(min(measured, key=measured.__getitem__))
    return staying
