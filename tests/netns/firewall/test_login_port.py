# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The port at which the controller's login arrives: it is closed with a door, or the way out, or nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..lab import SERVER, Namespace
from .firewall_host import SshdHost
from .ssh_controller import ROUTER, SSHD, ask, controller, host, lab

__all__ = ("controller", "host", "lab")

ALLOW = {"knock_firewall_allowlist": ["198.18.2.0/24"]}  # the controller, as there is no daemon here
INCLUDES = "Include /etc/ssh/sshd_config.d/*.conf\n"


STEPS = ("variables", "preflight", "commit")


def test_all_ports_of_sshd_are_closed_though_only_ansible_port_is_set(
    host: SshdHost, controller: Namespace, tmp_path: Path
) -> None:
    host.sh("kill $(cat /run/sshd.pid)")
    host.start_sshd(SSHD + "Port 2222\nPort 2022\n")
    said = ask(host, controller, SERVER, tmp_path / "key", *STEPS, **ALLOW, ansible_port=2222)
    assert "failed=0" in said, said
    assert {"--dport 2222", "--dport 2022"} == set(
        host.sh("iptables -S KNOCK | grep -o -e '--dport [0-9]*'").splitlines()
    )


def test_a_router_may_forward_another_port(host: SshdHost, controller: Namespace, tmp_path: Path) -> None:
    host.lab.client.run("nft", "add table ip nat")
    host.lab.client.run("nft", "add chain ip nat pre { type nat hook prerouting priority -100; }")
    host.lab.client.run("nft", "add rule ip nat pre tcp dport 2222 dnat to %s:22" % SERVER)
    said = ask(host, controller, ROUTER, tmp_path / "key", "variables", "preflight", **ALLOW, ansible_port=2222)
    assert "failed=0" in said, said


def test_a_run_over_the_way_out_changes_nothing_of_what_is_closed(
    host: SshdHost, controller: Namespace, tmp_path: Path
) -> None:
    host.sh("kill $(cat /run/sshd.pid)")
    host.start_sshd(SSHD + INCLUDES)
    assert host.module("sshd_extra_port", port=2222).get("changed")
    said = ask(
        host, controller, SERVER, tmp_path / "key", *STEPS, **ALLOW, ansible_port=2222, knock_firewall_escape_port=2222
    )
    assert "failed=0" in said, said
    assert "--dport 22 " in host.sh("iptables -S KNOCK") and host.sh("iptables -S KNOCK").count("KNOCK-ADMIT") == 1


DOOR = {"any": ["22/tcp", "443/tcp"], "front": ["443/tcp"], "any_is_known": True, "front_is_known": True}
"""What role knockd says of doors of which the one of knock_sequence opens 443/tcp."""

STOPS: dict[str, tuple[str, int, dict[str, Any], list[str]]] = {
    "another_port_is_closed": (
        "Port 22\nPort 2222\n",
        2222,
        {"knock_firewall_ports": ["22/tcp"]},
        ["arrives at port 2222/tcp of server", "knock_firewall_ports (22/tcp)", "Add the port to knock_firewall_ports"],
    ),
    "the_way_out_of_before": (INCLUDES, 2222, {}, ["arrives at port 2222/tcp", "escape port of an earlier run"]),
    "another_way_out": (
        INCLUDES,
        2222,
        {"knock_firewall_escape_port": 3333},
        ["arrives at port 2222/tcp", "knock_firewall_escape_port (3333)", "escape port of an earlier run"],
    ),
    "no_door": (
        "Port 2222\n",
        2222,
        {"__knockd_opens": DOOR},
        ["No door of server opens 2222/tcp", "The doors open 22/tcp, 443/tcp", "knockd_open_ports"],
    ),
    "another_door": (
        "Port 22\n",
        22,
        {"__knockd_opens": DOOR},
        ["arrives at port 22/tcp", "the door of knock_sequence opens 443/tcp", "knockd_open_ports"],
    ),
    "another_door_beside_unknown_ones": (
        "Port 22\n",
        22,
        {"__knockd_opens": {**DOOR, "any_is_known": False}},
        ["arrives at port 22/tcp", "the door of knock_sequence opens 443/tcp"],
    ),
    "open_and_closed": (
        "Port 2222\n",
        2222,
        {"knock_firewall_policy": "drop", "knock_firewall_open_ports": ["2000-3000/tcp"]},
        ["2000-3000/tcp of knock_firewall_open_ports", "knock_firewall_ports"],
    ),
    "the_way_out_is_sshds_own": (
        "Port 22\nPort 2222\n",
        22,
        {"knock_firewall_escape_port": 2222},
        ["knock_firewall_escape_port is 2222", "listens there already"],
    ),
}


@pytest.mark.parametrize("reason", STOPS)
def test_it_stops_with_the_cause_and_the_cure(
    host: SshdHost, controller: Namespace, tmp_path: Path, reason: str
) -> None:
    config, port, variables, words = STOPS[reason]
    host.sh("kill $(cat /run/sshd.pid)")
    host.start_sshd(SSHD + config)
    if config == INCLUDES:
        host.module("sshd_extra_port", port=2222)
    said = ask(host, controller, SERVER, tmp_path / "key", *STEPS, **{**ALLOW, **variables}, ansible_port=port)
    assert "failed=1" in said, said
    assert "Nothing has been changed" in said
    for word in words:
        assert word in said
    assert not host.is_protected()
