# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special about a host whose firewall is nftables itself: which backend it gets, and tables of others."""

from __future__ import annotations

from typing import Any

import pytest

from ...unit.firewall.rendering import host_with, render
from ..lab import CLIENT, CLIENT6, SERVER, STRANGER
from .firewall_host import FirewallHost

pytestmark = pytest.mark.parametrize("host", ["native"], indirect=True)
"""A host without iptables, whose owner has an /etc/nftables.conf that the boot loads."""

ALLOW: dict[str, Any] = {"knock_firewall_allowlist": [CLIENT, CLIENT6]}


# --- which backend ---------------------------------------------------------------------------------------------------


def test_a_host_that_uses_nftables_and_has_no_iptables_gets_nftables(host: FirewallHost) -> None:
    info = host.module("firewall_info")
    assert (info["backend"], info["ours"], info["nftables"]["tools"]) == ("nftables", [], True)


def test_a_host_that_has_iptables_gets_that(host: FirewallHost) -> None:
    for family in ("iptables", "ip6tables"):
        for command in (family, family + "-save", family + "-restore"):
            host.sh("ln -s /usr/sbin/%s /etc/alternatives/%s" % (command.replace(family, family + "-nft"), command))
    assert host.module("firewall_info")["backend"] == "iptables"


def test_a_host_that_uses_nothing_gets_iptables(host: FirewallHost) -> None:
    host.sh("rm /etc/systemd/system/sysinit.target.wants/nftables.service")
    assert host.module("firewall_info")["backend"] == "iptables"


def test_what_has_our_rules_stays_also_when_iptables_is_installed_later(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    host.sh("rm /etc/systemd/system/sysinit.target.wants/nftables.service")
    host.sh("ln -s /usr/sbin/iptables-nft-restore /etc/alternatives/iptables-restore")
    info = host.module("firewall_info")
    assert (info["backend"], info["ours"]) == ("nftables", ["nftables"])
    host.admin.lose_all()
    assert host.module("firewall_info")["ours"] == ["nftables"], "the file counts, too"


def test_a_second_backend_beside_ours_stops_the_play(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    said = host.play("preflight", **ALLOW, knock_firewall_backend="iptables", knock_firewall_prove=False)
    assert "has our rules in nftables" in said
    assert "sesame.knock.uninstall" in said
    said = host.play("preflight", **ALLOW, knock_firewall_prove=False)
    assert "failed=0" in said, said


def test_a_good_host_is_closed_by_the_role_and_a_second_run_changes_nothing(host: FirewallHost) -> None:
    host.sh("mkdir -p /run/sshd")
    variables: dict[str, Any] = {**ALLOW, "knock_firewall_prove": False}
    said = host.play("variables", "preflight", "commit", **variables)
    assert "failed=0" in said, said
    assert not host.lab.is_open(SERVER, source=STRANGER)
    assert host.saved() == ["/etc/knock_firewall.nft"]
    assert "changed=0" in host.play("variables", "preflight", "commit", **variables)


@pytest.mark.parametrize("backend", ["auto", "nftables"])
def test_doors_that_call_iptables_get_iptables(host: FirewallHost, backend: str) -> None:
    host.sh("mkdir -p /run/sshd")
    said = host.play(
        "preflight",
        **ALLOW,
        knock_firewall_prove=False,
        knock_firewall_backend=backend,
        knockd_preset="open_close_commands",
    )
    if backend == "auto":
        assert "failed=0" in said, said
    else:
        assert "cannot overrule our table of nftables" in " ".join(said.split())


# --- tables of others ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("flush ruleset\n", "flush or delete tables of others"),
        ("add table ip nat\n", "make table ip nat"),
        ("add rule inet knock_firewall input tcp dport 22 acept\n", "nft -c -f refused the rules"),
        ("delete table inet knock_firewall\n", "make no table"),
    ],
    ids=["flush", "another", "syntax", "nothing"],
)
def test_a_file_that_is_not_just_our_table_changes_nothing(host: FirewallHost, more: str, complaint: str) -> None:
    host.admin.have_rules()
    before = host.rules()
    text = render("knock_firewall.nft.j2", {**host_with(), **host.module("firewall_info")}, **ALLOW)
    text = more + text if more.startswith("flush") else text + more
    answer = host.module("firewall", state="applied", rules_nft=text)
    assert answer["failed"]
    assert complaint in answer["msg"]
    assert host.rules() == before


def test_a_file_that_adds_to_what_is_there_is_refused(host: FirewallHost) -> None:
    text = "table inet knock_firewall { chain input { type filter hook input priority 0; tcp dport 22 drop; }; }\n"
    answer = host.module("firewall", state="applied", rules_nft=text)
    assert "add to those that are there" in answer["msg"]
    assert not host.is_protected()


def test_what_the_owner_flushes_comes_back(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    before = host.rules()
    host.sh("nft flush ruleset")
    assert host.lab.is_open(SERVER, source=STRANGER)
    host.sh("knock-firewall check")
    assert host.rules() == before
    host.sh("nft flush chain inet knock_firewall admit; knock-firewall check")
    assert host.rules() == before
    assert not host.lab.is_open(SERVER, source=STRANGER)


def test_a_stranger_is_refused_in_silence_where_the_owner_drops(host: FirewallHost) -> None:
    assert host.module("firewall_info")["nftables"]["refuses"] == {"v4": "", "v6": ""}
    host.sh("nft add table ip6 mine; nft 'add chain ip6 mine in { type filter hook input priority 0; policy drop; }'")
    assert host.module("firewall_info")["nftables"]["refuses"] == {"v4": "", "v6": "drop"}


def test_check_mode_of_a_host_without_nft_says_what_would_change(host: FirewallHost) -> None:
    text = render("knock_firewall.nft.j2", {**host_with(), **host.module("firewall_info")}, **ALLOW)
    host.sh("mkdir /etc/sbin; mount --bind /etc/sbin /usr/sbin")
    answer = host.module("firewall", check=True, state="applied", rules_nft=text)
    assert answer["changed"], answer
    assert "nft is missing" in host.module("firewall", state="applied", rules_nft=text)["msg"]


# --- the rehearsal ---------------------------------------------------------------------------------------------------


def test_the_candidate_is_rehearsed_beside_the_owners_tables(host: FirewallHost) -> None:
    host.admin.have_rules()
    answer = host.apply(**ALLOW, rehearse=True, knock_firewall_escape_port=2222)
    assert answer["armed"], answer
    assert not answer.get("warnings")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("ip6 saddr %s/128 accept" % CLIENT6, "IPv6"),
        ("tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset", "stranger"),
        ("meta mark & 0x1000 == 0x1000 accept", "knock"),
        ('iif "lo" accept', "host itself"),
    ],
)
def test_a_candidate_that_forgets_a_line_is_never_applied(host: FirewallHost, line: str, complaint: str) -> None:
    before = host.rules()
    answer = host.apply(**ALLOW, rehearse=True, without=line)
    assert answer["failed"]
    assert "a rehearsal has failed" in answer["msg"]
    assert complaint in answer["msg"]
    assert host.rules() == before


def test_an_owners_chain_that_drops_all_is_seen_in_the_rehearsal(host: FirewallHost) -> None:
    host.sh("nft add table inet mine; nft 'add chain inet mine in { type filter hook input priority 0; policy drop; }'")
    answer = host.apply(**ALLOW, rehearse=True)
    assert "a rehearsal has failed" in answer["msg"]
    assert "Without the rules of others this is not so" in answer["msg"]
