# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nft lists as data is read as what it means, and what has no meaning for us as unknown; the kernel has its say in
tests/netns/firewall/test_native_walk.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._gates import Gate
from ansible_collections.sesame.knock.plugins.module_utils._judge import Case, judge_all
from ansible_collections.sesame.knock.plugins.module_utils._match import LIKELY, NO, UNLIKELY, YES, Packet, Rule
from ansible_collections.sesame.knock.plugins.module_utils._native_rules import Texts, native_chains
from ansible_collections.sesame.knock.plugins.module_utils._rules import parse_ports
from ansible_collections.sesame.knock.plugins.module_utils._spans import of_network

HERE = {"family": "inet", "table": "mine"}
SSH = {family: Packet(family, "tcp", "NEW", ((22, 22),), "SYN") for family in ("v4", "v6")}
FLAGS = {"payload": {"protocol": "tcp", "field": "flags"}}


def listing(*expressions: list[Any], policy: str = "accept", **more: Any) -> list[dict[str, Any]]:
    """As `nft --json list ruleset` has it."""
    chain = {**HERE, "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    rules = [{"rule": {**HERE, "chain": "input", "handle": n, "expr": expr}} for n, expr in enumerate(expressions)]
    return [
        {"metainfo": {}},
        {"table": {"family": "inet", "name": "mine"}},
        *more.get("sets", []),
        {"chain": chain},
        *rules,
    ]


def match(left: Any, right: Any, operator: str = "==") -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def rules(*steps: Any, family: str = "v4", sets: Any = ()) -> list[Rule]:
    (chain,) = native_chains(listing([*steps, {"drop": None}], sets=list(sets)), Texts({}), family)
    return list(chain.rules["input"])


def answer(*steps: Any, family: str = "v4", sets: Any = ()) -> int:
    """Of the one rule that says so, for a connection to port 22."""
    found = rules(*steps, family=family, sets=sets)
    return found[0].judge(SSH[family]) if found else NO


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([{"limit": {"rate": 5, "per": "second"}}], LIKELY),
        ([{"limit": {"rate": 5, "per": "second", "inv": True}}], UNLIKELY),
        ([{"ct count": {"val": 3, "inv": True}}], UNLIKELY),
        ([{"xt": None}], UNLIKELY),
        ([match({"ct": {"key": "helper"}}, "ftp")], UNLIKELY),
        ([match({"ct": {"key": "helper"}}, "ftp", "!=")], LIKELY),
        ([match({"payload": {"protocol": "udp", "field": "length"}}, 9)], NO),
        ([match({"payload": {"protocol": "ip", "field": "ttl"}}, 64)], LIKELY),
        ([match({"ct": {"key": "status"}}, "dnat", "in")], UNLIKELY),
        ([match({"ct": {"key": "proto-dst", "dir": "original"}}, 22)], YES),
        ([match({"concat": [{"meta": {"key": "iif"}}, {"meta": {"key": "mark"}}]}, "@some")], UNLIKELY),
        ([{"counter": {"packets": 0, "bytes": 0}}, {"log": None}, "continue"], YES),
        ([match({"&": [FLAGS, {"|": ["fin", {"|": ["syn", "ack"]}]}]}, "syn")], YES),
        ([match({"&": [FLAGS, ["fin", "syn"]]}, ["fin"])], NO),
        ([match({"&": [FLAGS, ["fin", "rst"]]}, 0)], YES),
        ([match({"meta": {"key": "iifname"}}, "eth*")], LIKELY),
    ],
    ids=str,
)
def test_what_a_match_says(steps: list[Any], expected: int) -> None:
    assert answer(*steps) == expected


def test_a_rule_of_the_other_family_is_none() -> None:
    from_ten = match({"payload": {"protocol": "ip", "field": "saddr"}}, {"prefix": {"addr": "10.0.0.0", "len": 8}})
    assert rules(from_ten)[0].source == of_network("10.0.0.0/8")
    assert rules(from_ten, family="v6") == []
    assert rules(match({"meta": {"key": "nfproto"}}, "ipv6")) == []
    assert len(rules(match({"meta": {"key": "nfproto"}}, "ipv6"), family="v6")) == 1


def test_a_set_that_changes_by_itself_is_not_known() -> None:
    def named(**more: Any) -> dict[str, Any]:
        return {"set": {**HERE, "name": "some", "type": "ipv4_addr", **more}}

    from_some = match({"payload": {"protocol": "ip", "field": "saddr"}}, "@some")
    fixed = named(elem=["192.0.2.1", {"elem": {"val": {"range": ["192.0.2.8", "192.0.2.9"]}, "comment": "office"}}])
    (rule,) = rules(from_some, sets=[fixed])
    assert rule.source is not None
    assert len(rule.source) == 2
    assert answer(from_some, sets=[named(flags=["timeout"], elem=["192.0.2.1"])]) == UNLIKELY
    assert answer(from_some) == UNLIKELY, "no such set"


def test_the_port_that_a_packet_was_sent_to_counts_as_its_port() -> None:
    (rule,) = rules(match({"ct": {"key": "proto-dst", "dir": "original"}}, {"range": [22, 23]}))
    assert rule.dport == ((22, 23),)


def test_names_of_icmpv6_are_numbers_and_ranges() -> None:
    said = match({"payload": {"protocol": "icmpv6", "field": "type"}}, {"range": ["nd-router-solicit", "nd-redirect"]})
    kinds = [Packet("v6", "ipv6-icmp", "UNTRACKED", icmp_type=number) for number in (132, 133, 135, 137, 138)]
    assert [any(rule.judge(kind) == YES for rule in rules(said, family="v6")) for kind in kinds] == [
        *(False, True, True, True, False)
    ]


LISTINGS = Path(__file__).parent / "listings"
"""Of the role's candidate, and of many rules, as nft of Debian 12 (1.0.6) and of Debian 13 (1.1.3) lists them."""


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("name", ["knock_firewall", "rules"])
def test_both_versions_of_nft_are_read_the_same(name: str, family: str) -> None:
    def said(version: str) -> list[Any]:
        place = LISTINGS / ("%s-%s" % (name, version))
        data = json.loads(place.with_name(place.name + ".json").read_text(encoding="utf-8"))["nftables"]
        texts = Texts.of(place.with_name(place.name + ".txt").read_text(encoding="utf-8"))
        found = [each for base in native_chains(data, texts, family) for each in base.rules.items()]
        return [
            (chain, rule.judge(SSH[family]), rule.source, rule.dport, rule.marks, rule.target, rule.arguments)
            for chain, chain_rules in found
            for rule in chain_rules
        ]

    assert said("1.0.6") == said("1.1.3")
    assert len({str(each) for each in said("1.0.6")}) > 15


@pytest.mark.parametrize(
    "step", [{"match": {}}, {"match": None}, {"vmap": 3}, {"jump": None}, 7, {}, {"limit": []}], ids=str
)
def test_a_form_that_nobody_knows_is_a_rule_that_may_do_anything(step: Any) -> None:
    assert answer(step) == UNLIKELY


def test_a_verdict_map_is_a_rule_for_each_of_its_lines() -> None:
    data = {"set": [[22, {"jump": {"target": "ssh"}}], [{"range": [80, 90]}, {"drop": None}]]}
    found = rules({"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": data}})
    assert [(rule.target, rule.dport) for rule in found[:2]] == [("ssh", ((22, 22),)), ("DROP", ((80, 90),))]


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_drop_of_others_counts_and_is_named(family: str) -> None:
    gate = Gate("protected", (parse_ports(22),), ("0.0.0.0/0", "::/0"), 0)
    ssh = match({"payload": {"protocol": "tcp", "field": "dport"}}, 22)
    accepting = listing([{"accept": None}])
    dropping = listing([ssh, {"drop": None}])
    texts = Texts.of(
        "table inet mine { # handle 1\n\tchain input { # handle 2\n\t\ttcp dport 22 drop # handle 0\n\t}\n}\n"
    )
    chains = native_chains(accepting, Texts({}), family, main="inet mine")
    late = [chain._replace(priority=10, is_main=False) for chain in native_chains(dropping, texts, family)]
    assert not judge_all([Case(chains, family)], [gate]).problems
    (first, *dummy) = judge_all([Case(chains + late, family, "Soon: ")], [gate]).problems
    assert first.startswith("Soon: IP")
    assert "nobody gets in to 22/tcp" in first
    assert "`tcp dport 22 drop` of chain input of table inet mine decides" in first
