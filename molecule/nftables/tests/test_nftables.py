# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The port of a host without iptables, over the network: whatever its owner does, and until all is uninstalled."""

from __future__ import annotations

import subprocess
import time

import pytest
from testinfra.host import Host
from vantage import ROOT, SCENARIO, Client, Server

RULES = "nft list table inet knock_firewall"


def test_the_port_is_closed_opens_to_a_knock_and_closes_again_in_both_families(server: Server, allowed: Client) -> None:
    both = (server.ipv4, server.ipv6)
    for address in both:
        assert not server.is_open(address)
        assert allowed.banner(address, server.port).startswith("SSH-2.0-")
    for address in both:
        server.knock(address)
        assert server.is_open(address)
    for address in both:
        server.wait_closed(address)


def test_no_iptables_has_come_and_everything_is_where_it_should_be(host: Host) -> None:
    assert not host.exists("iptables")
    file = host.file("/etc/knock_firewall.nft")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o640)
    assert host.service("knock-firewall").is_enabled
    assert "nftables.service" in host.check_output("systemctl show --property After --value knock-firewall").split()
    assert "policy drop" in host.check_output("nft list table inet filter")


@pytest.mark.parametrize(
    "command", ["systemctl reload nftables", "systemctl restart nftables", "nft -f /etc/nftables.conf"]
)
def test_the_port_stays_closed_when_the_owner_loads_their_rules(host: Host, server: Server, command: str) -> None:
    rules = host.check_output(RULES)
    host.check_output(command)
    assert not server.is_open(server.ipv4)
    assert not server.is_open(server.ipv6)
    if command.startswith("systemctl"):
        assert host.check_output(RULES) == rules
    else:
        host.check_output("systemctl start knock-firewall-check")
        assert host.check_output(RULES) == rules


def test_a_reboot_brings_everything_back(host: Host, server: Server) -> None:
    rules = host.check_output(RULES)
    host.check_output("systemctl disable knockd")  # the rules alone have to do it
    subprocess.run(["docker", "restart", "--time", "20", server.name], check=True, capture_output=True)
    deadline = time.monotonic() + 60
    while host.run("systemctl is-system-running --wait").rc != 0 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert host.service("knock-firewall").is_running
    assert host.check_output(RULES) == rules
    assert not server.is_open(server.ipv4)
    assert not server.is_open(server.ipv6)
    host.check_output("systemctl enable --now knockd")
    server.knock(server.ipv6)
    assert server.is_open(server.ipv6)


def test_uninstalling_brings_the_owners_firewall_back(host: Host, server: Server) -> None:
    playbook = ["ansible-playbook", "-i", str(SCENARIO / "inventory"), str(ROOT / "playbooks" / "uninstall.yml")]
    done = subprocess.run(playbook, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.is_open(server.ipv4)
    assert host.check_output("nft list tables") == "table inet filter"
    left = "find /etc /var/lib /usr/local -name '*knock*'"
    assert host.check_output(left + " -not -path '*/knockd*' -not -name knockd.conf") == ""
    host.check_output("systemctl reload nftables")
    assert server.is_open(server.ipv6)
