# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A port that a real Docker Engine publishes, of its own, inside the test host: what Docker makes of it is Docker's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Iterator

import pytest

from ..lab import CLIENT, CLIENT6, KNOCKS, PATIENCE, SERVER, SERVER6, STRANGER, STRANGER6, Lab, eventually
from .firewall_host import FirewallHost
from .test_published import BOTH, DOORS, PROTECT

pytestmark = pytest.mark.skipif(not shutil.which("dockerd"), reason="needs a Docker Engine: apt install docker.io")

SERVES = "import socket, time; s = socket.create_server(('', 2022), family=socket.AF_INET6, dualstack_ipv6=True)\n\
while True: s.accept()[0].sendall(b'from inside')"


class DockerHost(FirewallHost):
    """A host that runs a Docker Engine; all that it writes is below the private /run and /var/lib."""

    engine: subprocess.Popen[bytes] | None = None

    def start_docker(self) -> None:
        log = self.collections / "dockerd.log"
        self.engine = subprocess.Popen(
            # In a PID namespace, so that containers and containerd end with the engine, whatever ends it
            self.command(
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("dockerd", "--experimental", "--ip6tables", "--ipv6", "--fixed-cidr-v6", "fd00:5e5a:19::/64"),
                *("--bip", "198.19.0.1/24", "--default-address-pool", "base=198.19.128.0/17,size=24"),
                *("--storage-driver", "vfs", "--host", "unix:///run/docker.sock"),
            ),
            stdin=subprocess.DEVNULL,
            stdout=log.open("ab"),
            stderr=subprocess.STDOUT,
        )
        eventually(lambda: self.docker("version", check=False), "dockerd answers: %s" % log)

    def stop_docker(self) -> None:
        if self.engine:
            children = Path("/proc/%d/task/%d/children" % (self.engine.pid, self.engine.pid)).read_text().split()
            for child in children:  # the engine itself; its own pid file numbers it as its namespace does
                os.kill(int(child), signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.engine.wait(PATIENCE)
            self.engine.kill()
            self.engine.wait()
            self.engine = None

    def remove(self) -> None:
        self.stop_docker()
        super().remove()

    def docker(self, *arguments: str, check: bool = True) -> bool:
        done = subprocess.run(
            self.command("docker", "--host", "unix:///run/docker.sock", *arguments),
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.returncode == 0

    def run_container(self) -> None:
        """Something that serves port 2022 in a container, published as port 22; its files are the host's, read only."""
        empty = self.collections / "empty.tar"
        with tarfile.open(empty, "w"):
            pass
        self.docker("import", str(empty), "empty:latest")
        folders = [option for name in ("usr", "lib", "lib64") for option in ("-v", "/%s:/%s:ro" % (name, name))]
        self.docker(
            "run",
            "-d",
            "--name",
            "inside",
            "--stop-signal",
            "KILL",
            "-p",
            "22:2022",
            *folders,
            "empty",
            "/usr/bin/python3",
            "-c",
            SERVES,
        )


@pytest.fixture
def lab(bare_lab: Lab) -> Lab:
    """Without anybody on port 22, which a container is to have."""
    return bare_lab


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[DockerHost]:
    """A host without a firewall, whose port 22 a container has."""
    made = DockerHost(lab, tmp_path, request.param)
    try:
        made.start_docker()
        made.run_container()
        yield made
    finally:
        made.remove()


def hears(lab: Lab, server: str, source: str) -> bytes:
    """What is heard behind the port; nothing if nobody answers."""
    caller = lab.connect(server, source)
    if not caller:
        return b""
    with caller:
        return caller.recv(100)


def gets_in(lab: Lab, server: str, source: str) -> bool:
    eventually(lambda: hears(lab, server, source) == b"from inside", "%s gets into the container" % source)
    return True


@BOTH
def test_only_the_allowlist_and_knockers_get_into_the_container(
    host: DockerHost, server: str, client: str, stranger: str
) -> None:
    assert gets_in(host.lab, server, stranger), "Docker publishes it to all"
    host.apply(**PROTECT)
    assert not host.lab.is_open(server, source=stranger)
    assert gets_in(host.lab, server, client)
    host.lab.daemon(DOORS)
    assert not host.lab.is_open(server, source=stranger)
    host.lab.knock(*KNOCKS, to=server, source=stranger)
    assert gets_in(host.lab, server, stranger)


def test_docker_that_starts_again_opens_nothing_and_loses_nothing(host: DockerHost) -> None:
    host.apply(**PROTECT)
    host.confirm()
    host.stop_docker()
    host.sh("iptables -I FORWARD -j LOG; ip6tables -I FORWARD -j LOG")
    host.start_docker()
    host.docker("start", "inside")
    forward = [line for line in host.rules().splitlines() if line.startswith("iptables -t filter -A FORWARD")]
    assert "DOCKER-USER" in forward[0], "Docker goes before all that was there"
    for server, client, stranger in ((SERVER, CLIENT, STRANGER), (SERVER6, CLIENT6, STRANGER6)):
        assert gets_in(host.lab, server, client)
        assert not host.lab.is_open(server, source=stranger)
    assert not host.apply(**PROTECT)["changed"]


def test_a_change_and_its_revert_leave_dockers_rules_alone(host: DockerHost) -> None:
    before = host.rules()
    assert "inside" in [item["container"] for item in host.module("firewall_info", ports=["22/tcp"])["published"]]
    host.apply(**PROTECT)
    assert [line for line in host.rules().splitlines() if "KNOCK" not in line] == before.splitlines()
    host.revert()
    assert host.rules() == before
    assert gets_in(host.lab, SERVER, STRANGER)
