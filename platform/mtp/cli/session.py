"""Joins a foreground command to what runs on this machine: the local cluster if `mtp up` has one.

Knows nothing about what the command does there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.local import connect, load_state


def registry() -> str:
    """URI of the registry: MLFLOW_TRACKING_URI, else the running local cluster's, else the state folder's file."""
    from mtp.registry import tracking_uri

    state = load_state()
    if state is not None:
        os.environ.setdefault("MLFLOW_TRACKING_URI", state.mlflow_url)
    return tracking_uri()


@contextmanager
def ray_session() -> Iterator[None]:
    """Inside, `ray` is joined to the running local cluster, else to a private one that ends with the block."""
    import ray

    if load_state() is not None:
        connect()
    else:
        ray.init(
            address="local", include_dashboard=False, logging_level="warning", log_to_driver=False, namespace="mtp"
        )
    try:
        yield
    finally:
        ray.shutdown()
