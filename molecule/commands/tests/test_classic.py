# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The how-to's two set-ups, knocked at by C knock, word for word as people type it."""

from __future__ import annotations

import re
import subprocess
import time

import pytest
from testinfra.host import Host
from vantage import C_KNOCK, Server

THE_KNOCK = ["10001:tcp", "10002:tcp", "10003:tcp"]
MOMENT = 2
"""Seconds. The how-to sleeps one after its knocks; its sequence is weak, so the door waits 0.75 s for a scan's next."""
OUR_RULE = "-p tcp -m tcp --dport 22 -j ACCEPT"


def knock(address: str, *sequence: str) -> str:
    """`knock -v -d 100 HOST ...`, as in the how-to."""
    command = [C_KNOCK, "-v", "-d", "100", address, *sequence]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def holes(host: Host, tool: str = "iptables") -> int:
    """How many rules let somebody in by name."""
    return sum(OUR_RULE in rule for rule in host.check_output("%s -S INPUT", tool).splitlines())


@pytest.fixture
def preset(host: Host) -> str:
    """Which of the two set-ups the host has."""
    return "start_stop" if host.backend.get_hostname() == "sesame-classic12" else "open_close"


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_how_to_works_as_it_is_written(host: Host, server: Server, preset: str, family: str) -> None:
    tool = "iptables" if family == "ipv4" else "ip6tables"
    address = server.address(family)
    assert not server.is_open(address) and holes(host, tool) == 0
    assert "hitting tcp" in knock(address, *THE_KNOCK)
    time.sleep(MOMENT)
    assert server.is_open(address) and holes(host, tool) == 1
    if preset == "open_close":
        time.sleep(11)
        assert server.is_open(address), "this set-up stays open until the closing sequence"
        knock(address, *reversed(THE_KNOCK))
        time.sleep(MOMENT)
    server.wait_closed(address)
    assert holes(host, tool) == 0


def test_a_second_knock_piles_up_no_rules(host: Host, server: Server, preset: str) -> None:
    if preset == "open_close":
        pytest.skip("the pair of doors has no state between two commands, here as in C knockd")
    knock(server.ipv4, *THE_KNOCK)
    knock(server.ipv4, *THE_KNOCK)
    time.sleep(MOMENT)
    assert holes(host) == 1
    server.wait_closed(server.ipv4)
    assert holes(host) == 0


def test_stopping_the_daemon_closes_what_has_a_stop_command(host: Host, server: Server, preset: str) -> None:
    if preset == "open_close":
        pytest.skip("no stop command")
    knock(server.ipv4, *THE_KNOCK)
    time.sleep(MOMENT)
    assert holes(host) == 1
    host.check_output("systemctl stop knockd")
    assert holes(host) == 0
    host.check_output("systemctl start knockd")


def test_a_killed_daemon_closes_when_it_is_back(host: Host, server: Server, preset: str) -> None:
    if preset == "open_close":
        pytest.skip("no stop command")
    knock(server.ipv4, *THE_KNOCK)
    time.sleep(MOMENT)
    host.check_output("systemctl kill --signal KILL knockd")
    server.wait_closed(server.ipv4)
    assert holes(host) == 0


def test_the_log_has_the_lines_that_people_parse(host: Host, server: Server, preset: str) -> None:
    journal = host.check_output("journalctl --no-pager --output cat --identifier knockd")
    controller = server.ipv4.rsplit(".", 1)[0] + ".1"
    door = "opencloseSSH" if preset == "start_stop" else "openSSH"
    name = "" if preset == "start_stop" else r" \(.+\)"  # the other host looks names up
    for line in ("Stage 1", "Stage 2", "Stage 3", "OPEN SESAME"):
        assert re.search(r"^%s%s: %s: %s$" % (re.escape(controller), name, door, line), journal, re.MULTILINE)
    assert "%s: running command: /usr/sbin/iptables" % door in journal
    if preset == "start_stop":
        assert "%s: %s: command timeout\n" % (controller, door) in journal


def test_the_c_knockd_is_purged_so_that_a_later_purge_changes_nothing(host: Host) -> None:
    assert host.run("dpkg-query --show knockd").rc == 1
    before = host.check_output("sha256sum /etc/knockd.conf /etc/default/knockd")
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 purge -y knockd")
    assert host.check_output("sha256sum /etc/knockd.conf /etc/default/knockd") == before
    assert host.service("knockd").is_running and host.service("knockd").is_enabled


def test_more_options_reach_the_daemon(host: Host) -> None:
    if host.backend.get_hostname() == "sesame-classic12":
        pytest.skip("it has none")
    assert "    Classic = repeats,doors\n" in host.file("/etc/knockd.conf").content_string
    journal = host.check_output("journalctl --no-pager --output cat --identifier knockd")
    assert "at most 100,000 knockers are remembered" in journal


def test_a_configuration_that_nobody_wrote_is_not_adopted(host: Host) -> None:
    if host.backend.get_hostname() == "sesame-classic12":
        pytest.skip("its owner wrote one")
    assert not host.file("/etc/knockd.adopted").exists
    assert "7000" not in host.file("/etc/knockd.conf").content_string


class TestAdoption:
    """The owner of Debian's C knockd had configured it here."""

    @pytest.fixture(autouse=True)
    def only_where_it_was(self, host: Host) -> None:
        if host.backend.get_hostname() != "sesame-classic12":
            pytest.skip("nobody had")

    def test_what_its_owner_wrote_is_kept(self, host: Host) -> None:
        kept = host.file("/etc/knockd.adopted/knockd.conf")
        assert kept.mode == 0o600 and "où tout est écrit" in kept.content_string

    def test_its_other_door_still_works(self, host: Host, server: Server) -> None:
        knock(server.ipv4, "2001:udp", "2777:tcp", "2345:udp")
        time.sleep(MOMENT)
        controller = server.ipv4.rsplit(".", 1)[0] + ".1"
        assert host.file("/run/touched-by-" + controller).exists

    def test_its_door_of_the_same_name_is_replaced(self, host: Host) -> None:
        config = host.file("/etc/knockd.conf").content_string
        assert config.count("[opencloseSSH]") == 1 and "-A INPUT" not in config
