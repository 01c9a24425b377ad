"""How the parts of a cluster that serves are reached: on which addresses, by whom, and over what."""

import os
import pickle

import grpc
import psutil

from cluster.processes import members
from cluster.state import SERVE_OVER_GRPC


class Opened:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def listening(process):
    return [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]


def title(process):
    return " ".join(process.cmdline()[:3])


def test_with_an_endpoint_every_port_listens_on_the_loopback_address_alone(ray_cluster, endpoint):
    found = {}
    for process in members(ray_cluster.cluster_id):
        for address in listening(process):
            found.setdefault(address.ip.removeprefix("::ffff:"), set()).add(title(process))
    assert set(found) == {"127.0.0.1"}, found
    assert any("ServeReplica" in one for one in found["127.0.0.1"])


def test_proxy_gateways_and_replicas_are_told_to_talk_over_grpc(ray_cluster, endpoint):
    parts = [one for one in members(ray_cluster.cluster_id) if "ServeReplica" in title(one) or "Proxy" in title(one)]
    assert len(parts) >= 3
    assert all(SERVE_OVER_GRPC.items() <= part.environ().items() for part in parts)


def test_workers_have_the_priority_of_everything_else(ray_cluster, endpoint):
    replicas = [process for process in members(ray_cluster.cluster_id) if "ServeReplica" in title(process)]
    assert [process.nice() for process in replicas] == [psutil.Process().nice()] * len(replicas)
    assert replicas


def test_replicas_unpickle_nothing_that_comes_without_rays_token(ray_cluster, endpoint, tmp_path):
    replicas = [process for process in members(ray_cluster.cluster_id) if "ServeReplica" in title(process)]
    ports = [address.port for process in replicas for address in listening(process)]
    refused = [port for port in ports if sent(port, tmp_path / "opened") == grpc.StatusCode.UNAUTHENTICATED]
    assert len(refused) >= len(replicas) > 0, "each has a server that asks for the token"
    assert not (tmp_path / "opened").exists()
    token = (("authorization", f"Bearer {ray_cluster.token()}"),)
    for port in refused:
        sent(port, tmp_path / "opened", token)
    assert (tmp_path / "opened").exists(), "with the token it would have been opened"


def sent(port, folder, metadata=()):
    """The status with which a call of Ray Serve's is answered whose arguments make `folder` when they are unpickled."""
    from ray.serve.generated.serve_pb2 import ASGIRequest
    from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

    request = ASGIRequest(pickled_request_metadata=pickle.dumps(Opened(folder)))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            ASGIServiceStub(channel).HandleRequest(request, timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK
