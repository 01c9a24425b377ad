"""What each Ray worker of a local cluster does first: see to it that its servers listen on the loopback address.

Ray Serve gives every replica a gRPC server for calls between deployments, and binds it to all addresses whatever Serve
is told (it asks for Ray's token, but its port would be open to the network). Ray itself is settled by
`state.LOOPBACK_ONLY`; nothing else of a worker listens.
"""

from typing import Any

from cluster.ports import LOOPBACK

HOOK_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Names a function that Ray calls in each worker when it has started; what a runtime_env's setup hook becomes too."""

HOOK = {HOOK_VARIABLE: f"{__name__}.listen_on_loopback"}
_EVERYWHERE = ("[::]:", "0.0.0.0:")


def listen_on_loopback() -> None:
    """Turn later gRPC servers of this process that ask for all addresses to the loopback one."""
    from ray._common import tls_utils

    bind = tls_utils.add_port_to_grpc_server

    def bind_to_loopback(server: Any, address: str) -> int:
        host, _, port = address.rpartition(":")
        return int(bind(server, f"{LOOPBACK}:{port}" if f"{host}:" in _EVERYWHERE else address))

    tls_utils.add_port_to_grpc_server = bind_to_loopback
