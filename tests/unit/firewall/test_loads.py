# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is loaded for a rehearsal: everything but what sends elsewhere, or ours alone."""

from __future__ import annotations

from ansible_collections.sesame.knock.plugins.module_utils._loads import iptables_load, nftables_load
from ansible_collections.sesame.knock.plugins.module_utils._rules import parse

RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -p tcp -m tcp --dport 22 -j DNAT --to-destination 172.17.0.2:22
COMMIT
*filter
:INPUT DROP [0:0]
:f2b - [0:0]
:KNOCK - [0:0]
:KNOCK-ADMIT - [0:0]
-A INPUT -j f2b
-A INPUT -j KNOCK
-A KNOCK -p tcp -m tcp --dport 22 -j KNOCK-ADMIT
-A KNOCK-ADMIT -j RETURN
-A f2b -s 198.51.100.1/32 -j DROP
COMMIT
"""
OTHERS = """\
table ip nat {
\tchain prerouting {
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\ttcp dport 22 counter dnat to 172.17.0.2:22
\t\ttcp dport 80 redirect to :8080
\t\ttcp dport 81 masquerade
\t}
}
"""


def test_all_rules_are_loaded_but_what_sends_elsewhere() -> None:
    ((command, text),) = iptables_load("/usr/sbin/iptables-restore", parse(RULES)).whole
    assert command[0] == "/usr/sbin/iptables-restore"
    assert parse(text)["filter"] == parse(RULES)["filter"]
    assert parse(text)["nat"].rules == ["-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"]


def test_ours_alone_have_nothing_of_others() -> None:
    ((_, text),) = iptables_load("iptables-restore", parse(RULES)).alone
    filter_ = parse(text)["filter"]
    assert filter_.chains == {"INPUT": "ACCEPT", "KNOCK": "-", "KNOCK-ADMIT": "-"}
    assert filter_.rules == [rule for rule in parse(RULES)["filter"].rules if "KNOCK" in rule]


def test_tables_of_nft_come_first_and_send_nothing_elsewhere() -> None:
    (first, _), alone = iptables_load("iptables-restore", parse(RULES), "/usr/sbin/nft", OTHERS)
    assert first[0] == ["/usr/sbin/nft", "-f", "-"]
    assert [line.split()[:3] for line in first[1].splitlines() if "dport" in line] == [["tcp", "dport", "81"]]
    assert "type nat hook prerouting priority dstnat" in first[1]
    assert len(alone) == 1


def test_our_table_of_nft_is_loaded_last_or_alone() -> None:
    by_iptables = [(["iptables-restore"], RULES)]
    load = nftables_load("nft", "table inet knock_firewall { }", OTHERS, by_iptables)
    assert [command[0] for command, _ in load.whole] == ["iptables-restore", "nft", "nft"]
    assert load.alone == load.whole[-1:]
