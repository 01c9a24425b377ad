"""Joins a foreground command to what runs on this machine: the local cluster if `mtp up` has one.

Knows nothing about what the command does there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.local import connect, load_state
from cluster.state import EQUAL_WORKERS, SERVE_OVER_GRPC
from mtp.errors import MTPError


def registry() -> str:
    """URI of the registry: MLFLOW_TRACKING_URI, else the running local cluster's, else the state folder's file."""
    from mtp.registry import tracking_uri

    state = load_state()
    if state is not None:
        os.environ.setdefault("MLFLOW_TRACKING_URI", state.mlflow_url)
    return tracking_uri()


@contextmanager
def ray_session() -> Iterator[None]:
    """Inside, `ray` is joined to the running local cluster, else to a private one that ends with the block.

    Raises:
        MTPError: Ray does not start.
    """
    import ray

    if load_state() is not None:
        connect()
    else:
        _start_private()
    try:
        yield
    finally:
        ray.shutdown()


def _start_private() -> None:
    os.environ.update(SERVE_OVER_GRPC | EQUAL_WORKERS)  # its processes inherit it
    import ray

    try:
        ray.init(
            address="local", include_dashboard=False, logging_level="warning", log_to_driver=False, namespace="mtp"
        )
    except Exception as error:  # Ray has no narrower type for it
        reason = str(error).split(". ")[0]
        raise MTPError(
            f"Ray did not start on this machine ({reason}); try again when it is less busy, or see `mtp doctor`"
        ) from error
