"""Which addresses a cluster that serves listens on."""

import psutil

from cluster.processes import members


def test_with_an_endpoint_every_port_listens_on_the_loopback_address_alone(ray_cluster, endpoint):
    listening = {}
    for process in members(ray_cluster.cluster_id):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                address = connection.laddr.ip.removeprefix("::ffff:")
                listening.setdefault(address, set()).add(" ".join(process.cmdline()[:3]))
    assert set(listening) == {"127.0.0.1"}, listening
    assert any("ServeReplica" in title for title in listening["127.0.0.1"])
