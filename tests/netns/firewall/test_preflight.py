# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stops role knock_firewall on a host before anything has changed: one error with the cause and the cure."""

from __future__ import annotations

from typing import Any

import pytest

from ...unit.firewall import firewalld
from ..lab import CLIENT, CLIENT6, SERVER, SERVER6, STRANGER, STRANGER6
from .firewall_host import FirewallHost

pytestmark = pytest.mark.parametrize("host", ["nft"], indirect=True)

GOOD: dict[str, Any] = {"knock_firewall_allowlist": ["198.18.0.1"], "knock_firewall_prove": False}


STOPS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "ufw": (
        # What counts is its answer; the package itself cannot be here, as it conflicts with iptables-persistent
        "mkdir /etc/bin; printf '#!/bin/sh\\necho Status: active\\n' > /etc/bin/ufw; chmod 755 /etc/bin/ufw",
        {},
        ["ufw is active on localhost", "ufw disable"],
    ),
    "published": (
        "iptables -t nat -A PREROUTING -p tcp --dport 22 -j DNAT --to-destination 198.18.1.9",
        {},
        [
            "Port 22/tcp of localhost is sent elsewhere",
            "--to-destination 198.18.1.9",
            "knock_firewall_published: protect",
        ],
    ),
    "published_by_a_map": (
        "nft add table ip mine; nft 'add chain ip mine pre { type nat hook prerouting priority -100; }';"
        "nft add rule ip mine pre dnat to tcp dport map '{ 22 : 198.18.1.9 }'",
        {},
        [
            "Port 22/tcp of localhost is sent elsewhere",
            "nftables chain ip mine pre",
            "knock_firewall_published: protect",
        ],
    ),
    "perhaps_published": (
        "nft add table ip mine; nft 'add chain ip mine pre { type nat hook prerouting priority -100; }';"
        "nft 'add set ip mine ports { type inet_service; flags timeout; }';"
        "nft add rule ip mine pre tcp dport @ports redirect to :2222",
        {},
        ["Port 22/tcp of localhost may be sent elsewhere", "nftables chain ip mine pre"],
    ),
    "docker": (
        "iptables -t nat -A PREROUTING -p tcp --dport 22 -j DNAT --to-destination 198.18.1.9; mkdir /etc/bin;"
        "printf '#!/bin/sh\\necho \"gitea 0.0.0.0:22->2022/tcp, :::22->2022/tcp\"\\n' > /etc/bin/docker;"
        "chmod 755 /etc/bin/docker",
        {},
        ["by the Docker container gitea"],
    ),
    "saved": (
        "printf '*filter\\n-A INPUT -p tcp --dport 25 -j DROP\\nCOMMIT\\n' > /etc/iptables/rules.v6",
        {},
        ["/etc/iptables/rules.v6", "--dport 25 -j DROP", "knock_firewall_existing_rules: merge"],
    ),
    "saved_holes": (
        "iptables -I INPUT -s 198.18.0.66 -p tcp --dport 22 -j ACCEPT; iptables -N f2b-sshd;"
        "iptables-save > /etc/iptables/rules.v4",
        {},
        [
            "holds nothing but what programs make again",
            "filter: -A INPUT -s 198.18.0.66/32 -p tcp -m tcp --dport 22 -j ACCEPT",
            "filter: chain f2b-sshd",
            "merge to leave them out",
        ],
    ),
    "nftables": (
        "nft add table inet mine;"
        "nft add chain inet mine in '{ type filter hook input priority 10; policy drop; }';"
        "nft add rule inet mine in ct state established,related accept; nft add rule inet mine in tcp dport 443 accept",
        {},
        ["The nftables chain inet mine in on localhost lets nobody through to 22/tcp", "/etc/nftables.conf"],
    ),
    "legacy": (
        "iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -A INPUT -j DROP",
        {},
        ["INPUT of iptables-legacy on localhost lets nobody through to 22/tcp", "what nobody uses any more"],
    ),
    "legacy_ssh": (
        "iptables-legacy -A INPUT -p tcp --dport 80 -j ACCEPT; iptables-legacy -A INPUT -p tcp --dport 22 -j DROP",
        {},
        ["INPUT of iptables-legacy on localhost lets nobody through to 22/tcp", "Accept the port there"],
    ),
    "firewalld": (
        "nft --json --file %s" % (firewalld.FILES / "bookworm-public-without-ssh.json"),
        {},
        ["The nftables chain inet firewalld filter_INPUT on localhost lets nobody through to 22/tcp"],
    ),
    "unreadable": (
        "echo iptables -F > /etc/iptables/rules.v4",
        {"knock_firewall_existing_rules": "merge"},
        ["/etc/iptables/rules.v4 cannot be read, so no boot loads it: line 1", "move the file away", "iptables -F"],
    ),
    "published_without_a_door": (
        "true",
        {"knock_firewall_published": "protect", "knockd_preset": "start_stop_commands"},
        ["knockd_preset is start_stop_commands and no door has open_ports", "Use knockd_preset: native"],
    ),
    "not_ssh": (
        "true",
        {"knock_firewall_allowlist_controller": True, "knock_firewall_allowlist": []},
        ["the connection to localhost is not ssh", "Name it in knock_firewall_allowlist"],
    ),
    "another_mark": (
        "iptables -N KNOCK-ADMIT; iptables -A KNOCK-ADMIT -m mark --mark 0x2000/0x2000 -j RETURN",
        {},
        ["let packets with the mark 0x2000 through", "asks for 0x1000", "sesame.knock.uninstall"],
    ),
    "guard_of_a_command_door": (
        "true",
        {"knock_firewall_guard": True, "knockd_preset": "start_stop_commands"},
        ["knock_firewall_guard is true", "Use knockd_preset: native"],
    ),
    "sshd_elsewhere": (
        "true",
        {"knock_firewall_ports": ["2022/tcp"]},
        ["sshd on localhost listens on 22", "knock_firewall_ports: [22/tcp]"],
    ),
}


@pytest.mark.parametrize("reason", STOPS)
def test_it_stops_with_the_cause_and_the_cure_and_changes_nothing(host: FirewallHost, reason: str) -> None:
    script, variables, words = STOPS[reason]
    host.sh("mkdir -p /run/sshd; " + script)
    before = host.rules(), host.sh("cat /etc/iptables/* 2>/dev/null || true")
    answer = host.play("variables", "preflight", "commit", **{**GOOD, **variables})
    assert "failed=1" in answer
    for word in words:
        assert word in " ".join(answer.split())
    assert (host.rules(), host.sh("cat /etc/iptables/* 2>/dev/null || true")) == before


def test_nothing_stops_it_on_a_good_host_and_a_second_run_changes_nothing(host: FirewallHost) -> None:
    host.sh("mkdir -p /run/sshd")
    assert "failed=0" in host.play("variables", "preflight", "commit", **GOOD)
    assert "KNOCK-ADMIT -s 198.18.0.1/32" in host.rules()
    assert "changed=0" in host.play("variables", "preflight", "commit", **GOOD)


def test_a_published_port_stops_nothing_where_it_is_to_be_protected(host: FirewallHost) -> None:
    host.sh("mkdir -p /run/sshd; iptables -t nat -A PREROUTING -p tcp --dport 22 -j DNAT --to-destination 198.18.1.9")
    answer = host.play("variables", "preflight", "commit", **GOOD, knock_firewall_published="protect")
    assert "failed=0" in answer
    assert "Only the allowlist and knockers will get there" in " ".join(answer.split())
    assert "-A POSTROUTING -j KNOCK-PUBLISHED" in host.rules()


def test_a_hole_and_a_ban_that_were_saved_are_told_and_not_kept(host: FirewallHost) -> None:
    host.sh("""
        mkdir -p /run/sshd
        iptables -A INPUT -p tcp --dport 25 -j DROP
        iptables -N f2b-sshd
        iptables -I INPUT -p tcp --dport 22 -j f2b-sshd
        iptables -A f2b-sshd -s 198.18.0.99 -j REJECT
        iptables -I INPUT -s 198.18.0.66 -p tcp --dport 22 -j ACCEPT
        iptables-save > /etc/iptables/rules.v4
    """)
    live = host.rules()
    answer = host.play("variables", "preflight", "commit", **GOOD, knock_firewall_existing_rules="merge")
    assert "failed=0" in answer
    assert "-A f2b-sshd -s 198.18.0.99/32" in answer, "what is left out is told"
    saved = host.sh("cat /etc/iptables/rules.v4")
    assert "--dport 25 -j DROP" in saved
    assert "f2b" not in saved
    assert "198.18.0.66" not in saved
    assert set(live.splitlines()) <= set(host.rules().splitlines()), "what is live stays"
    host.sh("iptables-restore /etc/iptables/rules.v4")
    assert "changed=0" in host.play("variables", "preflight", "commit", **GOOD, knock_firewall_existing_rules="merge")


def test_bytes_that_are_no_utf8_in_rules_of_others_stop_nothing_and_are_kept(host: FirewallHost) -> None:
    comment, remark = "caf\\351 \\303\\251", "journal du caf\\351"  # as printf reads it
    host.sh(f"""
        mkdir -p /run/sshd
        for command in iptables ip6tables; do
            $command -A INPUT -p tcp --dport 25 -m comment --comment "$(printf '{comment}')" -j DROP
        done
        (iptables-save; printf '# {remark}\\n') > /etc/iptables/rules.v4
        ip6tables-save > /etc/iptables/rules.v6
    """)

    def has(family: str, text: str) -> bool:
        return host.sh(f"grep -a -c -e \"$(printf '{text}')\" /etc/iptables/rules.{family} || true").strip() == "1"

    merge = {**GOOD, "knock_firewall_existing_rules": "merge"}
    answer = host.play("variables", "preflight", "commit", **merge)
    assert "failed=0" in answer, answer
    assert has("v4", "KNOCK-ADMIT -s 198.18.0.1/32")
    assert has("v4", comment)
    assert has("v6", comment)
    host.sh("iptables-restore /etc/iptables/rules.v4; ip6tables-restore /etc/iptables/rules.v6")
    assert "changed=0" in host.play("variables", "preflight", "commit", **merge)
    assert host.module("firewall", state="absent")["changed"]
    assert has("v4", remark), "the file of before is back"
    assert not has("v4", "KNOCK-ADMIT -s 198.18.0.1/32")


def test_who_else_decides_is_told(host: FirewallHost) -> None:
    host.sh("""
        mkdir -p /run/sshd
        nft add table inet mine
        nft add chain inet mine in '{ type filter hook input priority 10; policy drop; }'
        nft add rule inet mine in ip saddr 198.18.0.0/24 accept
        iptables-legacy -A INPUT -s 198.18.0.99 -j DROP
    """)
    answer = " ".join(host.play("variables", "preflight", **GOOD).split())
    assert "failed=0" in answer
    assert "The nftables chain inet mine in on localhost (1 rules, policy drop) decides" in answer
    assert "INPUT of iptables-legacy on localhost (1 rules) decides" in answer


@pytest.mark.parametrize("name", firewalld.GETS_IN)
def test_what_firewalld_refuses_stays_refused_and_is_read_so(host: FirewallHost, name: str) -> None:
    host.apply(knock_firewall_allowlist=[CLIENT, CLIENT6])
    host.mark(STRANGER)
    host.mark(STRANGER6)
    ways = ((SERVER, CLIENT), (SERVER, STRANGER), (SERVER6, CLIENT6), (SERVER6, STRANGER6))
    assert all(host.lab.is_open(server, source=source) for server, source in ways)
    host.run("nft", "--json", "--file", "-", text=firewalld.to_load(name))
    by_ipv4, by_ipv6 = firewalld.GETS_IN[name]
    is_open = [host.lab.is_open(server, source=source) for server, source in ways]
    assert is_open == [by_ipv4, by_ipv4, by_ipv6, by_ipv6]
    chains = [chain for chain in host.module("firewall_info")["base_chains"] if "firewalld" in chain["name"]]
    assert [chain["refuses"] for chain in chains] == [[] if any(is_open) else ["22/tcp"]]


def test_what_the_other_iptables_drops_stays_dropped_and_is_read_so(host: FirewallHost) -> None:
    host.apply(knock_firewall_allowlist=[CLIENT, CLIENT6])
    host.mark(STRANGER)
    assert host.lab.is_open(SERVER, source=STRANGER)
    host.sh("iptables-legacy -A INPUT -p tcp --dport 22 -j DROP")
    assert not host.lab.is_open(SERVER, source=STRANGER)
    assert not host.lab.is_open(SERVER, source=CLIENT)
    assert host.lab.is_open(SERVER6, source=CLIENT6)
    (other,) = host.module("firewall_info")["other_iptables"]
    assert (other["name"], other["families"], other["refuses"]) == ("INPUT of iptables-legacy", ["v4"], ["22/tcp"])


def test_files_that_cannot_be_written_are_an_error_before_anything_changes(host: FirewallHost) -> None:
    host.sh("mkdir -p /run/sshd; mount -t tmpfs -o ro none /etc/iptables")
    before = host.rules()
    answer = host.play("variables", "preflight", "commit", **GOOD)
    assert "Read-only file system" in answer
    assert "Nothing has been changed" in " ".join(answer.split())
    assert "Read-only file system" in answer
    assert host.rules() == before
    assert host.sh("ls /etc/iptables") == ""
