# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The port over the network: closed, opened by the right knock and by nothing else, closed again, in both families."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from testinfra.host import Host
from vantage import Client, Server

both_families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


@both_families
def test_the_port_is_closed_opens_to_a_knock_and_closes_again(server: Server, family: str) -> None:
    address = server.address(family)
    assert not server.is_open(address)
    server.knock(address)
    assert server.is_open(address)
    server.wait_closed(address)
    assert not server.is_open(address)


def test_a_knock_over_one_family_opens_nothing_over_the_other(server: Server) -> None:
    server.knock(server.ipv4)
    assert server.is_open(server.ipv4)
    assert not server.is_open(server.ipv6)


def test_the_wrong_order_opens_nothing(server: Server) -> None:
    first, second, *rest = server.sequence
    server.knock(server.ipv4, (second, first, *rest))
    assert not server.is_open(server.ipv4)


def test_a_wrong_port_opens_nothing(server: Server) -> None:
    *most, last = server.sequence
    server.knock(server.ipv4, (*most, last._replace(port=last.port + 1)))
    assert not server.is_open(server.ipv4)


def test_a_wrong_protocol_opens_nothing(server: Server) -> None:
    *most, last = server.sequence
    other = "udp" if last.protocol == "tcp" else "tcp"
    server.knock(server.ipv4, (*most, last._replace(protocol=other)))
    assert not server.is_open(server.ipv4)


def test_a_knock_that_is_too_slow_opens_nothing(server: Server) -> None:
    server.knock(server.ipv4, delay=6.0 / (len(server.sequence) - 1))
    assert not server.is_open(server.ipv4)


@both_families
def test_the_allowlist_needs_no_knock(server: Server, allowed: Client, family: str) -> None:
    assert allowed.banner(server.address(family)).startswith("SSH-2.0-")
    assert not server.is_open(server.address(family))


@both_families
def test_a_session_outlives_its_door(server: Server, family: str) -> None:
    address = server.address(family)
    session = subprocess.Popen(
        server.ssh(address, "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert session.stdin and session.stdout and session.stderr
    try:
        print("open", file=session.stdin, flush=True)
        assert session.stdout.readline() == "open\n", session.stderr.read()
        server.wait_closed(address)
        print("closed", file=session.stdin, flush=True)
        assert session.stdout.readline() == "closed\n", session.stderr.read()
    finally:
        session.stdin.close()
        session.wait(timeout=20)


def test_a_login_without_a_knock_is_refused(server: Server) -> None:
    command = server.ssh(server.ipv4, "true", proxy=False)
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 255 and "Connection refused" in refused.stderr


@pytest.fixture
def foreign_mark(host: Host) -> Iterator[None]:
    """Somebody else sets every bit of the mark, early, on every packet."""
    rule = "PREROUTING -t mangle -j MARK --set-xmark 0xffffffff"
    for tool in ("iptables", "ip6tables"):
        host.check_output("%s -A %s" % (tool, rule))
    yield
    for tool in ("iptables", "ip6tables"):
        host.check_output("%s -D %s" % (tool, rule))


@pytest.mark.usefixtures("foreign_mark")
@both_families
def test_a_foreign_mark_opens_nothing(host: Host, server: Server, family: str) -> None:
    assert not server.is_open(server.address(family))
    # The guard would refuse it as well: the rules must do so alone, as at boot, before there is a daemon.
    host.check_output("systemctl stop knockd")
    try:
        assert not server.is_open(server.address(family))
    finally:
        host.check_output("systemctl start knockd")


@both_families
def test_the_guard_keeps_the_port_closed_when_somebody_flushes_the_rules(
    host: Host, server: Server, allowed: Client, family: str
) -> None:
    address = server.address(family)
    for tool in ("iptables", "ip6tables"):
        host.check_output("%s -F; %s -t mangle -F" % (tool, tool))
    try:
        assert not server.is_open(address)
        assert allowed.banner(address).startswith("SSH-2.0-")
        server.knock(address)
        assert server.is_open(address)
    finally:
        host.check_output("netfilter-persistent start")


def test_a_killed_daemon_leaves_no_hole_and_comes_back(host: Host, server: Server) -> None:
    server.knock(server.ipv4)
    assert server.is_open(server.ipv4)
    host.check_output("systemctl kill --signal KILL knockd")
    server.wait_closed(server.ipv4, within=3)  # long before the door's own time is over
    deadline = time.monotonic() + 20
    while not host.service("knockd").is_running and time.monotonic() < deadline:
        time.sleep(0.5)
    server.knock(server.ipv4)
    assert server.is_open(server.ipv4)


def test_a_stopped_daemon_leaves_no_hole(host: Host, server: Server) -> None:
    server.knock(server.ipv4)
    assert server.is_open(server.ipv4)
    host.check_output("systemctl stop knockd")
    try:
        assert not server.is_open(server.ipv4)
    finally:
        host.check_output("systemctl start knockd")


def test_a_reload_forgets_nobody(host: Host, server: Server) -> None:
    server.knock(server.ipv4)
    host.check_output("systemctl reload knockd")
    time.sleep(0.5)
    assert server.is_open(server.ipv4)
