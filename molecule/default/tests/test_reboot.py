# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a reboot leaves: everything."""

from __future__ import annotations

import subprocess
import time

from testinfra.host import Host
from vantage import Client, Server


def test_a_reboot_brings_everything_back(host: Host, server: Server, allowed: Client) -> None:
    subprocess.run(["docker", "restart", "--time", "20", server.name], check=True, capture_output=True)
    deadline = time.monotonic() + 60
    while host.run("systemctl is-system-running --wait").rc != 0 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert host.service("knockd").is_running
    assert host.service("netfilter-persistent").is_running
    for address in (server.ipv4, server.ipv6):
        assert not server.is_open(address)
        assert allowed.banner(address).startswith("SSH-2.0-")
        server.knock(address)
        assert server.is_open(address)
    assert subprocess.run(server.ssh(server.ipv4, "true"), timeout=60).returncode == 0
