"""What can be known to fail is refused before anything starts, in one sentence."""

import time
from collections.abc import Callable

import ray

from mtp.config import Config
from mtp.data import TrainingData, open_dataset, open_training_data
from mtp.errors import MTPError, UsageError
from mtp.train.manifest import checkpoints, read_manifest
from mtp.train.run_folder import RunFolder

_STREAM_CPUS = 0.1
"""CPUs that must be left for the tasks that read rows."""
_WAIT_S = 30.0
_EPSILON = 1e-6


def check_data(config: Config) -> TrainingData:
    """The training rows, if model, batch and data fit each other.

    Raises:
        MTPError: a split is missing or damaged.
        UsageError: tokens, row length or batch do not fit.
    """
    train = open_training_data(config.data)
    held_out = open_dataset(f"{config.data.path}/validation")
    for split in (*train.sources, held_out):
        manifest = split.manifest
        if manifest.seq_len != config.data.seq_len:
            raise UsageError(
                f"{split.location} has rows of {manifest.seq_len} tokens, but data.seq_len is {config.data.seq_len}; "
                f"set data.seq_len={manifest.seq_len} or prepare the data again"
            )
        if split.tokenizer.vocab_size > config.model.vocab_size:
            raise UsageError(
                f"{split.location} has a vocabulary of {split.tokenizer.vocab_size} entries, but model.vocab_size is "
                f"{config.model.vocab_size}; set data.vocab_size and model.vocab_size to "
                f"{split.tokenizer.vocab_size}, or prepare the data again"
            )
    if held_out.manifest.tokenizer.sha256 != train.sources[0].manifest.tokenizer.sha256:
        raise UsageError(
            f"{held_out.location} and {train.sources[0].location} have different tokenizers; set data.path to a data "
            f"set of the same tokenizer as data.mixture"
        )
    return train


def uses_gpu(config: Config) -> bool:
    """Whether the workers get a GPU each.

    Raises:
        UsageError: GPUs are asked for, and the cluster has none.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    if config.train.use_gpu and not gpus:
        raise UsageError("train.use_gpu is true, but the Ray cluster has no GPU; set train.use_gpu=false")
    return bool(gpus) if config.train.use_gpu is None else config.train.use_gpu


def check_resources(config: Config, use_gpu: bool, say: Callable[[str], None]) -> None:
    """See that the cluster can hold the workers; wait a little if others hold its CPUs now.

    Raises:
        UsageError: it never could.
        MTPError: others keep the resources occupied.
    """
    train = config.train
    needs = {"CPU": train.min_workers * train.cpus_per_worker + _STREAM_CPUS}
    if use_gpu:
        needs["GPU"] = float(train.min_workers)
    total = ray.cluster_resources()
    for resource, need in needs.items():
        if total.get(resource, 0) + _EPSILON < need:
            raise UsageError(
                f"training needs {need:g} {resource}s ({train.min_workers} workers and the row stream), but the Ray "
                f"cluster has {total.get(resource, 0):g}; lower train.num_workers or train.cpus_per_worker"
            )
    _wait_for(needs, say)


def _wait_for(needs: dict[str, float], say: Callable[[str], None]) -> None:
    deadline, told = time.monotonic() + _WAIT_S, False
    while busy := [key for key, need in needs.items() if ray.available_resources().get(key, 0) + _EPSILON < need]:
        if time.monotonic() > deadline:
            free = ray.available_resources().get(busy[0], 0)
            raise MTPError(
                f"training needs {needs[busy[0]]:g} {busy[0]}s, and other work on the Ray cluster leaves {free:g}; "
                f"stop it (mtp jobs list, mtp undeploy) or lower train.num_workers"
            )
        if not told:
            say(f"waiting for {busy[0]}s that other work on the cluster holds")
            told = True
        time.sleep(1.0)


def repair_run_folder(folder: RunFolder) -> list[str]:
    """Remove checkpoints that a killed run left without their manifest; sentences about what was done."""
    notes = []
    for name in checkpoints(folder.filesystem, folder.path):
        if read_manifest(folder.filesystem, f"{folder.path}/{name}") is None:
            folder.filesystem.delete_dir(f"{folder.path}/{name}")
            notes.append(f"removed the unfinished checkpoint {name}")
    return notes
