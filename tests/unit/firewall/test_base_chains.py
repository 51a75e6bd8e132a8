# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else decides over a new connection: sure is only what has no rule that could accept it."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._base_chains import base_chains, refused_by
from ansible_collections.sesame.knock.plugins.module_utils._rules import Ports, Table

from . import firewalld

SSH = [Ports(22, 22, "tcp")]
DROP, ACCEPT = {"drop": None}, {"accept": None}


def chain(family: str = "inet", table: str = "filter", name: str = "input", **more: Any) -> dict[str, Any]:
    base = {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
    return {"chain": {"family": family, "table": table, "name": name, **base, **more}}


def rule(*steps: dict[str, Any], name: str = "input") -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "filter", "chain": name, "expr": list(steps)}}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def dport(right: Any, protocol: str = "tcp") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": "dport"}}, right)


STATE: dict[str, Any] = {"ct": {"key": "state"}}
SOURCE: dict[str, Any] = {"payload": {"protocol": "ip", "field": "saddr"}}
INSIDE: dict[str, Any] = {"meta": {"key": "iifname"}}
STATUS: dict[str, Any] = {"ct": {"key": "status"}}
STATES = {"vmap": {"key": STATE, "data": {"set": [["established", ACCEPT], ["invalid", DROP]]}}}


@pytest.mark.parametrize(
    "other",
    [
        chain("ip", "filter", "INPUT"),
        chain("ip6", "mangle", "INPUT"),
        chain("inet", "knockd", "guard"),
        chain("inet", "knock_firewall", "input"),
        chain(hook="forward"),
        chain(type="nat"),
        chain("bridge"),
    ],
)
def test_iptables_and_we_are_nobody_else(other: dict[str, Any]) -> None:
    assert base_chains([{"metainfo": {}}, other], SSH) == []


def test_a_chain_of_others_is_told_with_what_it_is() -> None:
    (found,) = base_chains([chain(policy="drop", prio=-10), rule(dport(22), ACCEPT)], SSH)
    assert (found.name, found.priority, found.policy) == ("The nftables chain inet filter input", -10, "drop")
    assert (found.rules, found.families, found.refuses) == (1, ("v4", "v6"), [])
    (legacy,) = base_chains([chain("ip", "mine", "INPUT")], SSH)
    assert legacy.families == ("v4",)


@pytest.mark.parametrize(
    ("rules", "lets_through"),
    [
        ([], False),
        ([rule(dport(22), ACCEPT)], True),
        ([rule(dport({"set": [80, {"range": [20, 30]}]}), ACCEPT)], True),
        ([rule(dport("@mine"), ACCEPT)], True),
        ([rule(dport({"set": [80, 443]}), ACCEPT)], False),
        ([rule(dport(22, "udp"), ACCEPT)], False),
        ([rule(match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), dport(22, "th"), ACCEPT)], True),
        ([rule(match({"meta": {"key": "l4proto"}}, "ipv6-icmp"), ACCEPT)], False),
        ([rule(match(INSIDE, "lo"), ACCEPT)], False),
        ([rule(match(INSIDE, "wg0"), ACCEPT)], True),
        ([rule(match(STATE, ["established", "related"], "in"), ACCEPT)], False),
        ([rule(match(STATE, "new", "in"), dport(22), ACCEPT)], True),
        ([rule(match(STATUS, "dnat", "in"), ACCEPT)], False),
        ([rule(match(STATUS, ["dnat", "snat"], "in"), ACCEPT)], True),
        ([rule(match(STATUS, "dnat", "!="), ACCEPT)], True),
        ([rule(STATES)], False),
        ([rule(STATES), rule(match(SOURCE, "198.18.0.1"), ACCEPT)], True),
        ([rule({"vmap": {"key": dport(0)["match"]["left"], "data": {"set": [[25, ACCEPT]]}}})], False),
        ([rule({"vmap": {"key": dport(0)["match"]["left"], "data": {"set": [[22, ACCEPT]]}}})], True),
        ([rule({"vmap": {"key": INSIDE, "data": "@zones"}})], True),
        ([rule({"jump": {"target": "mine"}}), rule(ACCEPT, name="mine")], True),
        ([rule({"jump": {"target": "mine"}}), rule(dport(80), ACCEPT, name="mine")], False),
        ([rule({"xt": {"type": "match", "name": "recent"}}, ACCEPT)], True),
        ([rule(DROP), rule(dport(22), ACCEPT)], False),
        ([rule({"counter": {}}, {"log": {}}, {"reject": {}}), rule(dport(22), ACCEPT)], False),
        ([rule({"limit": {"rate": 5}}, DROP), rule(dport(22), ACCEPT)], True),
        ([rule(match(SOURCE, "198.18.0.9"), DROP), rule(dport(22), ACCEPT)], True),
    ],
)
def test_a_policy_of_drop_lets_through_what_a_rule_could_accept(
    rules: list[dict[str, Any]], lets_through: bool
) -> None:
    (found,) = base_chains([chain(policy="drop"), *rules], SSH)
    assert found.refuses == ([] if lets_through else ["22/tcp"])


@pytest.mark.parametrize(
    ("rules", "refuses"),
    [
        ([], []),
        ([rule(DROP)], ["22/tcp"]),
        ([rule(dport(22), DROP)], ["22/tcp"]),
        ([rule(match(INSIDE, "lo", "!="), match(STATE, "new", "in"), dport({"range": [1, 1023]}), DROP)], ["22/tcp"]),
        ([rule(dport(23), DROP)], []),
        ([rule(dport(22, "udp"), DROP)], []),
        ([rule(dport(22), match(SOURCE, "198.18.0.0/24", "!="), DROP)], []),
        ([rule(match(SOURCE, "198.18.0.1"), ACCEPT), rule(dport(22), DROP)], []),
        ([rule(match(SOURCE, "198.18.0.1"), {"return": None}), rule(dport(22), DROP)], []),
        ([rule({"jump": {"target": "mine"}}), rule(dport(22), {"reject": {}}, name="mine")], ["22/tcp"]),
    ],
)
def test_a_policy_of_accept_refuses_what_a_rule_refuses_for_sure(
    rules: list[dict[str, Any]], refuses: list[str]
) -> None:
    (found,) = base_chains([chain(), *rules], SSH)
    assert found.refuses == refuses


@pytest.mark.parametrize("name", firewalld.GETS_IN)
def test_what_firewalld_makes_decides_and_refuses_where_no_zone_allows_the_port(name: str) -> None:
    (found,) = base_chains(firewalld.listing(name), [Ports(22, 22, "tcp"), Ports(60000, 60010, "udp")])
    assert (found.name, found.priority) == ("The nftables chain inet firewalld filter_INPUT", 10)
    assert (found.rules, found.families) == (6, ("v4", "v6"))
    refuses = [] if any(firewalld.GETS_IN[name]) else ["22/tcp"]
    assert found.refuses == [*refuses, "60000-60010/udp"]


def test_each_of_the_firewalls_that_firewalld_has_made_is_read() -> None:
    assert sorted(firewalld.GETS_IN) == sorted(path.stem for path in firewalld.FILES.iterdir())


@pytest.mark.parametrize(
    ("policy", "rules", "refuses"),
    [
        ("ACCEPT", [], []),
        ("DROP", [], ["22/tcp"]),
        ("DROP", ["INPUT -i lo -j ACCEPT", "INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"], ["22/tcp"]),
        ("DROP", ["INPUT -p tcp -m multiport --dports 20:30,80 -j ACCEPT"], []),
        ("DROP", ["INPUT -p tcp -m tcp --dport 80 -j ACCEPT"], ["22/tcp"]),
        ("DROP", ["INPUT -p udp -m udp --dport 22 -j ACCEPT"], ["22/tcp"]),
        ("DROP", ["INPUT -s 198.18.0.1/32 -j ACCEPT"], []),
        ("ACCEPT", ["INPUT -p tcp -m tcp --dport 22 -j DROP"], ["22/tcp"]),
        ("ACCEPT", ["INPUT -j mine", "mine -j REJECT --reject-with tcp-reset"], ["22/tcp"]),
        ("ACCEPT", ["INPUT -s 198.18.0.9/32 -p tcp -m tcp --dport 22 -j DROP"], []),
        ("ACCEPT", ["INPUT -p tcp -j mine", "mine -s 198.18.0.1/32 -j RETURN", "mine -j DROP"], []),
        ("ACCEPT", ["INPUT -p tcp -m tcp --dport 22"], []),
    ],
)
def test_the_other_iptables_is_judged_in_the_same_way(policy: str, rules: list[str], refuses: list[str]) -> None:
    table = Table({"INPUT": policy, "mine": "-"}, ["-A " + rule for rule in rules])
    assert refused_by(table, SSH) == refuses
    assert refused_by(None, SSH) == []
