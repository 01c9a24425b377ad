"""What a job gets: a folder with the source and the resolved configuration, and nothing else of this machine.

The folder is what Ray uploads to the cluster. It is the same whether the source lies in a clone or was installed.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cluster
import jobs
import mtp
import serve
from mtp.config import Config, dump_config

CONFIG_FILE = "config.yaml"
PYTHONPATH = ".:platform"
"""Of a process whose working directory is the folder."""

_PACKAGES = {"cluster": cluster, "jobs": jobs, "serve": serve, "platform/mtp": mtp}
_NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@contextmanager
def staged(config: Config) -> Iterator[Path]:
    """The folder, for as long as the block runs."""
    with TemporaryDirectory(prefix="mtp-job-") as name:
        folder = Path(name)
        for place, package in _PACKAGES.items():
            shutil.copytree(package.__path__[0], folder / place, ignore=_NOT_SOURCE)
        (folder / CONFIG_FILE).write_text(dump_config(with_absolute_paths(config)))
        yield folder


def with_absolute_paths(config: Config) -> Config:
    """`config` with the paths that are relative to this process's folder made absolute: a job runs in another."""
    data, train, evaluate = config.data, config.train, config.evaluate
    return config.model_copy(
        update={
            "data": data.model_copy(
                update={
                    "path": _absolute(data.path),
                    "corpus": _absolute(data.corpus),
                    "tokenizer": _absolute(data.tokenizer),
                    "mixture": tuple(
                        source.model_copy(update={"path": _absolute(source.path)}) for source in data.mixture
                    ),
                }
            ),
            "train": train.model_copy(update={"storage_path": _absolute(train.storage_path)}),
            "evaluate": evaluate.model_copy(
                update={"data": _absolute(evaluate.data), "model": _absolute(evaluate.model)}
            ),
        }
    )


def _absolute(path: str | None) -> str | None:
    if path is None or re.match(r"[a-z0-9+.-]+:/", path):  # s3://..., models:/...
        return path
    return str(Path(path).expanduser().absolute())
