# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special about a host whose firewall is nftables itself: which backend it gets, and tables of others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ...unit.firewall.rendering import evaluate, host_with, render
from ..lab import CLIENT, CLIENT6, SERVER, STRANGER, run
from .firewall_host import FirewallHost

pytestmark = pytest.mark.parametrize("host", ["native"], indirect=True)
"""A host without iptables, whose owner has an /etc/nftables.conf that the boot loads."""

ALLOW: dict[str, Any] = {"knock_firewall_allowlist": [CLIENT, CLIENT6]}
SYN_REFUSAL = "tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset"


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


# --- judged and rehearsed --------------------------------------------------------------------------------------------


def test_the_candidate_is_rehearsed_beside_the_owners_tables(host: FirewallHost) -> None:
    host.admin.have_rules()
    answer = host.apply(**ALLOW, rehearse=True, knock_firewall_escape_port=2222)
    assert answer["armed"], answer
    assert not answer.get("warnings")


FORGOTTEN = pytest.mark.parametrize(
    ("line", "judged", "rehearsed"),
    [
        (
            "ip6 saddr %s/128 accept" % CLIENT6,
            "IPv6: the allowlisted %s/128 does not reach 22/tcp: `tcp flags" % CLIENT6,
            "IPv6",
        ),
        (
            SYN_REFUSAL,
            "a stranger reaches 22/tcp, by the policy ACCEPT of input of table inet knock_firewall",
            "stranger",
        ),
        ("meta mark & 0x1000 == 0x1000 accept", "an admitted knocker does not reach 22/tcp: `tcp flags", "knock"),
        ('iif "lo" accept', "the host itself does not reach 22/tcp: `tcp flags", "host itself"),
    ],
)


@FORGOTTEN
def test_a_candidate_that_forgets_a_line_is_never_applied(
    host: FirewallHost, line: str, judged: str, rehearsed: str
) -> None:
    before = host.rules()
    answer = host.apply(**ALLOW, rehearse=True, without=line)
    assert answer["failed"]
    assert judged in answer["msg"]
    assert host.rules() == before


@FORGOTTEN
def test_what_the_judge_would_see_the_rehearsal_sees_as_well(
    host: FirewallHost, line: str, judged: str, rehearsed: str
) -> None:
    text = render("knock_firewall.nft.j2", {**host_with(), **host.module("firewall_info")}, **ALLOW)
    text = "".join(each for each in text.splitlines(True) if each.strip() != line)
    gates = evaluate("__knock_firewall_gates", {**host_with(), **host.module("firewall_info")}, **ALLOW)
    seen = json.loads(run(*host.python(REHEARSE), text=json.dumps([text, gates])))
    assert any(rehearsed in problem for problem in seen), seen


REHEARSE = """
import json, sys
from ansible_collections.sesame.knock.plugins.module_utils._gates import read_gates
from ansible_collections.sesame.knock.plugins.module_utils._loads import nftables_load
from ansible_collections.sesame.knock.plugins.module_utils._rehearsal import rehearse
text, gates = json.load(sys.stdin)
load = nftables_load("/usr/sbin/nft", text)
print(json.dumps(rehearse({"v4": load, "v6": load}, read_gates(gates, 0x1000)).problems))
"""


def test_an_owners_chain_that_drops_all_is_named(host: FirewallHost) -> None:
    host.sh("nft add table inet mine; nft 'add chain inet mine in { type filter hook input priority 0; policy drop; }'")
    said = host.apply(**ALLOW, rehearse=True)["msg"]
    assert "nobody gets in to 22/tcp" in said
    assert "the policy DROP of in of table inet mine decides" in said
    host.sh("nft flush table inet mine; nft 'add rule inet mine in ct state established,related accept'")
    for rule in ("tcp dport { 22, 80 }", "icmpv6 type { 133-137 }", "icmpv6 type packet-too-big", "iif lo"):
        host.sh("nft 'add rule inet mine in %s accept'" % rule)
    answer = host.apply(**ALLOW, rehearse=True)
    assert answer.get("armed"), answer


def test_an_owners_rule_that_drops_before_input_is_seen_in_the_rehearsal_alone(host: FirewallHost) -> None:
    host.sh("nft add table inet mine; nft 'add chain inet mine early { type filter hook prerouting priority raw; }'")
    host.sh("nft 'add rule inet mine early ip6 saddr != %s tcp dport 22 drop'" % CLIENT6)
    said = host.apply(**ALLOW, rehearse=True)["msg"]
    assert "a rehearsal has failed" in said
    assert "Without the rules of others this is not so" in said
    assert host.apply(**ALLOW, rehearse=False)["armed"], "the judge does not read it"


def test_a_rule_of_others_whose_comment_is_no_utf8_is_named_all_the_same(host: FirewallHost) -> None:
    host.sh(
        """
        printf 'table inet mine {
            chain in {
                type filter hook input priority 10; policy accept
                ip saddr CLIENT tcp dport 22 drop comment "caf\\351"
            }
            chain pre {
                type nat hook prerouting priority -100
                tcp dport 80 redirect to :8080 comment "caf\\351"
            }
        }' > /run/mine.nft
        mkdir -p /run/sshd
        nft -f /run/mine.nft
    """.replace("CLIENT", CLIENT)
    )
    assert host.module("firewall_info")["published"] == []
    answer = " ".join(host.play("variables", "preflight", "commit", knock_firewall_prove=False, **ALLOW).split())
    assert "failed=0" in answer, "one address is banned, which is no reason against the change"
    assert "ip saddr %s tcp dport 22 drop comment" % CLIENT in answer
