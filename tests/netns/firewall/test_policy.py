# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole-host firewall (knock_firewall_policy: drop), with both iptables and with nftables alone, in both families."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from ..lab import CLIENT, CLIENT6, SERVER, SERVER6, STRANGER, STRANGER6, Lab
from .firewall_host import TWO_BACKENDS, FirewallHost

pytestmark = pytest.mark.parametrize("host", TWO_BACKENDS, indirect=True)

DROP: dict[str, Any] = {
    "knock_firewall_allowlist": [CLIENT, CLIENT6],
    "knock_firewall_policy": "drop",
    "knock_firewall_open_ports": ["443/tcp", "60000-60010/udp"],
}

BOTH = pytest.mark.parametrize(
    ("server", "client", "stranger"), [(SERVER, CLIENT, STRANGER), (SERVER6, CLIENT6, STRANGER6)], ids=["ipv4", "ipv6"]
)


def hears(lab: Lab, server: str, port: int, source: str) -> bool:
    """Whether a datagram arrives."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with lab.server:
        listener = socket.socket(family, socket.SOCK_DGRAM)
    with listener, lab.client, socket.socket(family, socket.SOCK_DGRAM) as caller:
        listener.bind((server, port))
        listener.settimeout(1)
        caller.bind((source, 0))
        caller.sendto(b"hello", (server, port))
        try:
            return listener.recv(5) == b"hello"
        except TimeoutError:
            return False


def pings(lab: Lab, server: str, kind: int) -> bool:
    """Whether an ICMP or ICMPv6 request of this kind has an answer."""
    v6 = ":" in server
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    words = [kind << 8, 0, 1, 1]
    words[1] = 0 if v6 else 0xFFFF - sum(words)  # for ICMPv6 the kernel does it
    with lab.client, socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(1)
        raw.sendto(struct.pack("!4H", *words) + bytes(12), (server, 0))
        try:
            while True:
                answer = raw.recv(99)[0 if v6 else 20 :]
                if answer[0] == {8: 0, 13: 14, 128: 129}[kind]:
                    return True
        except TimeoutError:
            return False


@BOTH
def test_only_the_open_ports_and_the_gates_are_there(
    host: FirewallHost, server: str, client: str, stranger: str
) -> None:
    for port in (443, 444, 2222):
        host.lab.sshd(port)
    host.apply(**DROP, knock_firewall_escape_port=2222)
    reached = {
        (port, source): host.lab.is_open(server, source, port)
        for port in (22, 443, 444, 2222)
        for source in (client, stranger)
    }
    assert [at for at, is_open in reached.items() if is_open] == [
        (22, client),
        (443, client),
        (443, stranger),
        (2222, client),
    ]
    assert hears(host.lab, server, 60003, stranger)
    assert not hears(host.lab, server, 60011, stranger)


@BOTH
def test_a_knock_still_opens(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**DROP)
    host.mark(stranger)
    assert host.lab.is_open(server, stranger)


@BOTH
def test_sessions_from_before_live_on_also_when_conntrack_forgets_them(
    host: FirewallHost, server: str, client: str, stranger: str
) -> None:
    sessions = []
    for port in (22, 444):
        if port != 22:
            host.lab.sshd(port)
        near = host.lab.connect(server, stranger, port)
        assert near
        sessions.append((near, host.lab.accept()))
    host.apply(**DROP)
    for near, far in sessions:
        near.sendall(b"there")
        assert far.recv(5) == b"there"
        host.run("conntrack", "-F")
        near.sendall(b"still")
        assert far.recv(5) == b"still"


@BOTH
def test_the_host_gets_out_and_hears_the_answer(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**DROP)
    with host.lab.client:
        far = socket.create_server((client, 8080), family=socket.AF_INET6 if ":" in client else socket.AF_INET)
    with far, host.lab.server, socket.create_connection((client, 8080), timeout=5) as caller:
        answering = far.accept()[0]
        answering.sendall(b"answer")
        assert caller.recv(6) == b"answer"
        answering.close()
    host.run("bash", "-c", "exec 3<>/dev/tcp/%s/22" % server)


@BOTH
def test_a_ping_is_answered(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**DROP)
    assert pings(host.lab, server, 128 if ":" in server else 8)


def test_the_time_of_day_is_nobodys_business(host: FirewallHost) -> None:
    assert pings(host.lab, SERVER, 13), "ICMP timestamp"
    host.apply(**DROP)
    assert not pings(host.lab, SERVER, 13)


def test_neighbours_find_each_other_when_they_have_forgotten(host: FirewallHost) -> None:
    host.apply(**DROP)
    for namespace in (host.lab.client, host.lab.server):
        namespace.ip("neigh", "flush", "all")
    assert host.lab.is_open(SERVER6, CLIENT6)


@pytest.mark.iptables_only("read in the template")
def test_a_neighbour_from_afar_is_none(host: FirewallHost) -> None:
    host.apply(**DROP)
    rules = [rule for rule in host.run("ip6tables-save").splitlines() if "-A KNOCK -p ipv6-icmp" in rule]
    for kind in (133, 134, 135, 136, 137):
        (rule,) = [rule for rule in rules if "--icmpv6-type %d " % kind in rule]
        assert "-m hl --hl-eq 255 -j RETURN" in rule


@BOTH
def test_a_second_run_changes_and_arms_nothing(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**DROP, guard=True, knock_firewall_escape_port=2222)
    host.confirm()
    again = host.apply(**DROP, guard=True, knock_firewall_escape_port=2222)
    assert not again["changed"], again["diff"]
    assert not again["armed"]
    assert not again.get("warnings")


def test_the_policy_of_input_is_not_ours_so_a_missing_jump_opens(host: FirewallHost) -> None:
    host.lab.sshd(444)
    host.apply(**DROP)
    assert not host.lab.is_open(SERVER, STRANGER, 444)
    host.admin.flush_ours()
    assert host.lab.is_open(SERVER, STRANGER, 444)


def test_a_ban_counts_for_open_ports_and_admitted_sources_too(host: FirewallHost) -> None:
    host.lab.sshd(443)
    host.apply(**DROP)
    assert host.lab.is_open(SERVER, CLIENT, 22)
    assert host.lab.is_open(SERVER, CLIENT, 443)
    host.admin.ban(CLIENT)
    assert not host.lab.is_open(SERVER, CLIENT, 22)
    assert not host.lab.is_open(SERVER, CLIENT, 443)


def test_where_input_drops_too_what_is_open_stays_open(host: FirewallHost) -> None:
    host.lab.sshd(443)
    host.admin.drop_by_default(but=443)
    answer = host.apply(**DROP)
    assert answer.get("armed"), answer
    host.confirm()
    assert host.lab.is_open(SERVER, STRANGER, 443)
    assert host.lab.is_open(SERVER, CLIENT, 22)
    assert not host.lab.is_open(SERVER, STRANGER, 22)
    assert not host.apply(**DROP)["changed"]


def test_from_drop_back_to_accept(host: FirewallHost) -> None:
    host.lab.sshd(444)
    host.apply(**DROP)
    host.confirm()
    assert host.module("firewall_info")["refuses"] == {"v4": "", "v6": ""}, "our own drop is not the host's"
    host.apply(**{**DROP, "knock_firewall_policy": "accept"})
    assert host.lab.is_open(SERVER, STRANGER, 444)
    assert not host.lab.is_open(SERVER, STRANGER, 22)
