# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of nft: candidates that touch others are refused, listings compared, tables of others told apart."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sesame.knock.plugins.module_utils import _nftables
from ansible_collections.sesame.knock.plugins.module_utils._nftables import NftablesError

OURS = "table inet knock_firewall {\n\tchain input {\n\t\ttcp dport 22 drop\n\t}\n}\n"
OWNED = "table inet knockd {\n\tflags owner\n\n\tset admitted4 {\n\t\ttype ipv4_addr\n\t}\n}\n"
FILTER = 'table inet filter {\n\tcomment "table ip x { }"\n\tchain input {\n\t\taccept comment "}"\n\t}\n}\n'
MANAGED = "table ip filter {\n\tchain INPUT {\n\t\tcounter accept\n\t}\n}\n"
NETDEV = "table netdev t {\n\tchain c {\n\t\ttype filter hook ingress device eth0 priority 0; policy accept;\n\t}\n}\n"


def scratch(*tables: str, listing: str = OURS, again: str = "") -> str:
    return "-- next --\n".join([listing, again or listing, "".join("table %s\n" % table for table in tables)])


def test_the_listing_of_a_candidate_is_read() -> None:
    assert _nftables.read_scratch(scratch("inet knock_witness", "inet knock_firewall")) == OURS


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (scratch("inet knock_firewall"), "flush or delete tables of others"),
        (scratch("inet knock_witness", "inet knock_firewall", "ip nat"), "make table ip nat"),
        (scratch("inet knock_witness", listing=""), "make no table inet knock_firewall"),
        (scratch("inet knock_witness", "inet knock_firewall", again=OURS.replace("22", "23")), "add to those that are"),
    ],
    ids=["flushes", "one-too-many", "nothing", "adds"],
)
def test_a_candidate_is_our_table_and_nothing_else(output: str, complaint: str) -> None:
    with pytest.raises(NftablesError, match=complaint):
        _nftables.read_scratch(output)


def test_only_rules_are_compared_not_how_they_stand_on_the_page() -> None:
    assert not _nftables.differs(OURS, OURS.replace("\t", "    ").replace("\n}", "\n\n}"))
    assert _nftables.differs(OURS, OURS.replace("22", "23"))
    assert _nftables.differs("", OURS)


def test_tables_of_others_are_those_that_stay_when_we_and_the_daemon_go() -> None:
    ruleset = OWNED + FILTER + OURS + MANAGED + NETDEV
    assert [table.name for table in _nftables.tables(ruleset)] == ["knockd", "filter", "knock_firewall", "filter", "t"]
    assert _nftables.of_others(ruleset) == FILTER + MANAGED
    assert _nftables.of_others(ruleset, leave_out=["ip filter"]) == FILTER
    firewalld = OWNED.replace("knockd", "firewalld").replace("flags owner", "flags owner,persist")
    assert _nftables.of_others(firewalld) == firewalld.replace("\tflags owner,persist\n", "")


def test_the_tables_of_iptables_are_known_by_the_warning_of_nft() -> None:
    warning = "# Warning: table ip filter is managed by iptables-nft, do not touch!\n"
    assert _nftables.managed_by_iptables(warning + warning.replace("ip filter", "ip6 nat")) == ["ip filter", "ip6 nat"]


def chain(policy: str = "accept", *rules: list[dict[str, Any]], table: str = "filter", family: str = "inet") -> Any:
    place = {"family": family, "table": table}
    listing: list[dict[str, Any]] = [{"chain": {**place, "name": "input", "hook": "input", "policy": policy}}]
    return listing + [{"rule": {**place, "chain": "input", "expr": rule}} for rule in rules]


ONE = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}}
REJECT: dict[str, Any] = {"reject": {"type": "tcp reset"}}
COUNTER: dict[str, Any] = {"counter": {"packets": 0, "bytes": 0}}


@pytest.mark.parametrize(
    ("listing", "v4", "v6"),
    [
        (chain(), "", ""),
        (chain("drop"), "drop", "drop"),
        (chain("drop", family="ip"), "drop", ""),
        (chain("drop", [ONE, {"accept": None}]), "drop", "drop"),
        (chain("drop", [{"accept": None}]), "", ""),
        (chain("accept", [ONE, {"drop": None}]), "", ""),
        (chain("accept", [COUNTER, REJECT]), "reject", "reject"),
        (chain("accept", [REJECT]) + chain("drop", family="ip6"), "reject", "drop"),
        (chain("drop", table="knock_firewall") + chain("drop", table="knockd"), "", ""),
        (
            chain("drop", [{"jump": {"target": "rest"}}])
            + [{"rule": {"family": "inet", "table": "filter", "chain": "rest", "expr": [{"log": None}, REJECT]}}],
            "reject",
            "reject",
        ),
    ],
)
def test_a_stranger_is_refused_as_the_chains_of_others_do_it(listing: Any, v4: str, v6: str) -> None:
    assert _nftables.refuses(listing, "ip") == v4
    assert _nftables.refuses(listing, "ip6") == v6
