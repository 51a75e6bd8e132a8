# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller of its own behind the lab's client, and a server with a real sshd, which it logs in to by a key."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Iterator

import pytest

from ..lab import CLIENT, CLIENT6, Lab, Namespace, run
from .firewall_host import SshdHost

INSIDE, INSIDE6 = "198.18.2.9", "fd00:5e5a:2::9"
"""The controller's own addresses."""
ROUTER, ROUTER6 = "198.18.2.1", "fd00:5e5a:2::1"

SSHD = "UsePAM no\nStrictModes no\nPermitRootLogin yes\nAuthorizedKeysFile /etc/authorized\nSetEnv SHLVL=1\n"


@pytest.fixture
def lab(bare_lab: Lab) -> Lab:
    """Without anybody on port 22, which a real sshd is to have."""
    return bare_lab


@pytest.fixture
def controller(lab: Lab) -> Namespace:
    """Behind the lab's client, which forwards."""
    inside: Namespace = lab._keep(Namespace("knock-i-" + secrets.token_hex(4)))
    inside.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
    lab.client.ip("link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", inside.name)
    for namespace, name, ipv4, ipv6 in (
        (lab.client, "inside", ROUTER, ROUTER6),
        (inside, "eth0", INSIDE, INSIDE6),
    ):
        namespace.ip("link", "set", name, "up")
        namespace.ip("address", "add", ipv4 + "/24", "dev", name)
        namespace.ip("address", "add", ipv6 + "/64", "dev", name, "nodad")
    lab.client.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    inside.ip("route", "add", "default", "via", ROUTER)
    inside.ip("-6", "route", "add", "default", "via", ROUTER6)
    lab.server.ip("route", "add", "198.18.2.0/24", "via", CLIENT)
    lab.server.ip("-6", "route", "add", "fd00:5e5a:2::/64", "via", CLIENT6)
    return inside


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> Iterator[SshdHost]:
    """The server, with a sshd that root can log in to by a key."""
    made = SshdHost(lab, tmp_path, "nft")
    try:
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key"))
        made.run("tee", "/etc/authorized", text=(tmp_path / "key.pub").read_text())
        made.sh("sed -i 's/^root:[^:]*/root:*/' /etc/shadow")  # sshd knows no account whose password is locked
        made.start_sshd(SSHD)
        yield made
    finally:
        made.remove()


def ask(host: SshdHost, controller: Namespace, server: str, key: Path, *steps: str, **variables: Any) -> str:
    """What the role says in these steps, over a login from the controller; words are separated by one space."""
    options = ["-F none -i %s" % key, "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ControlMaster=no"]
    said = host.play(
        *steps,
        controller=controller,
        name="server",
        ansible_connection="ssh",
        ansible_host=server,
        ansible_user="root",
        ansible_ssh_args=" -o ".join(options),
        ansible_remote_tmp=str(key.parent / "remote"),
        knock_firewall_prove=False,
        **variables,
    )
    assert "unreachable=0" in said, said
    return " ".join(said.split())
