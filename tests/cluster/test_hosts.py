"""The hosts that the rehearsal runs on reach each other by their cables alone, and leave nothing behind."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mtp.errors import UsageError
from tests.cluster.hosts import Hosts

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces want root and iproute2"
)
SERVER = "import socket; s = socket.create_server(('0.0.0.0', 7000)); print('up', flush=True); [*iter(s.accept, None)]"
CLIENT = "import socket, sys; socket.create_connection((sys.argv[1], 7000), timeout=2)"


def namespaces():
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def hosts():
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder:
        hosts = Hosts(3, Path(folder))
        try:
            hosts.__enter__()
        except UsageError as error:  # a container's root may not make namespaces
            pytest.skip(str(error))
        yield hosts
        hosts.__exit__()
    assert not any(name in namespaces() for name in hosts.names)


def test_a_host_is_reached_unless_its_cable_is_pulled(hosts):
    def reaches(number):
        command = hosts.command(0, sys.executable, "-c", CLIENT, hosts.address(number))
        return subprocess.run(command, capture_output=True).returncode == 0

    servers = [
        subprocess.Popen(hosts.command(number, sys.executable, "-c", SERVER), stdout=subprocess.PIPE, text=True)
        for number in (1, 2)
    ]
    assert [server.stdout.readline() for server in servers] == ["up\n", "up\n"]
    assert reaches(1) and reaches(2)
    hosts.set_cable(2, plugged=False)
    assert reaches(1) and not reaches(2)
    hosts.set_cable(2, plugged=True)
    assert any(reaches(2) for _ in range(5))
    for server in servers:
        server.kill()
        server.wait()


def test_each_host_has_a_folder_of_its_own_under_the_same_path(hosts):
    for number in (0, 1):
        subprocess.run(hosts.command(number, "touch", f"{hosts.temp_dir}/of-{number}"), check=True)
    listed = subprocess.run(hosts.command(1, "ls", str(hosts.temp_dir)), capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["of-1"]
