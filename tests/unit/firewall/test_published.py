# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports that never meet INPUT are found in each spelling, and what cannot be read counts as one.

The kernel has its say in tests/netns/firewall/test_published.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._published import published, published_by_nftables
from ansible_collections.sesame.knock.plugins.module_utils._rules import Ports, Table
from ansible_collections.sesame.knock.plugins.module_utils._spans import of_network

SSH = [Ports(22, 22, "tcp")]
HERE = of_network("198.18.0.2")
AWAY = "-j DNAT --to-destination 198.18.1.2"
CHAINS = {"PREROUTING": "ACCEPT", "OUTPUT": "ACCEPT", "DOCKER": "-", "DOCKER_OUTPUT": "-", "X": "-"}


@pytest.mark.parametrize(
    ("rules", "is_found"),
    [
        (["PREROUTING -p tcp -m tcp --dport 22 " + AWAY], True),
        (["PREROUTING -p tcp -m multiport --dports 20:30,80 -j REDIRECT --to-ports 2222"], True),
        (["PREROUTING -i eth0 " + AWAY], True),
        (["PREROUTING -p udp -m udp --dport 22 " + AWAY], False),
        (["PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22"], False),
        (["DOCKER ! -i docker0 -p tcp -m tcp --dport 22 " + AWAY], True),
        (["DOCKER_OUTPUT -p tcp -m tcp --dport 22 -j DNAT --to-destination 127.0.0.11:35353"], False),
        (["PREROUTING -p tcp -m tcp ! --dport 22 -j REDIRECT --to-ports 2222"], False),
        (["PREROUTING -p tcp -m multiport ! --dports 20:30 " + AWAY], False),
        (["PREROUTING -p tcp -m tcp ! --dport 23 " + AWAY], True),
        (["PREROUTING ! -p tcp " + AWAY], False),
        (["PREROUTING -p tcp -m tcp --dport 22 -j X", "X " + AWAY], True),
        (["PREROUTING -p tcp -m tcp --dport 443 -j X", "X -p tcp -m tcp " + AWAY], False),
        (["PREROUTING -p tcp -m tcp --dport 22 -j ACCEPT", "PREROUTING " + AWAY], False),
        (["PREROUTING -p tcp -m tcp --dport 22 -j RETURN", "PREROUTING " + AWAY], False),
        (["PREROUTING -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT", "PREROUTING " + AWAY], True),
        (["PREROUTING -i eth0 -p tcp -m tcp --dport 22 -j ACCEPT", "PREROUTING " + AWAY], True),
        (["PREROUTING -j X", "PREROUTING " + AWAY, "X -p tcp -m tcp --dport 22 -j ACCEPT"], False),
        (["PREROUTING -j X", "PREROUTING " + AWAY, "X -p tcp -m tcp --dport 22 -j RETURN", "X -j ACCEPT"], True),
        (["PREROUTING -p tcp -m tcp --dport 22 -g X", "PREROUTING " + AWAY], False),
        (["PREROUTING -p tcp -m tcp --dport 22 -j NETMAP --to 10.0.0.0/8"], True),
        (["PREROUTING -p tcp -m tcp --dport 22 -j FULLCONENAT"], True),
        (["PREROUTING -p tcp -m tcp --dport 22 -j MARK --set-xmark 0x1/0xffffffff"], False),
        (["PREROUTING -m mark --mark 0x1 " + AWAY], True),
        (["PREROUTING -m set --match-set ports dst " + AWAY], True),
        (["PREROUTING -p tcp -m strange --dport2 23 " + AWAY], True),
        (["PREROUTING -d 198.18.0.2/32 " + AWAY], True),
        (["PREROUTING -d 198.18.0.3/32 " + AWAY], False),
        (["PREROUTING -d 127.0.0.11/32 " + AWAY], False),
        (["PREROUTING ! -d 198.18.0.2/32 " + AWAY], False),
        # An address that is not the host's today may be so tomorrow: who names the port means it
        (["PREROUTING -d 198.18.0.3/32 -p tcp -m tcp --dport 22 " + AWAY], True),
        (["PREROUTING -m addrtype ! --dst-type LOCAL -p tcp -m tcp --dport 22 " + AWAY], False),
        (["PREROUTING -j X", "X -j X", "X " + AWAY], True),
    ],
    ids=str,
)
def test_a_protected_port_that_is_sent_elsewhere_is_found(rules: list[str], is_found: bool) -> None:
    fixed = ["-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", "-A OUTPUT -j DOCKER_OUTPUT"]
    nat = Table(CHAINS, fixed + ["-A " + rule for rule in rules])
    assert bool(published(nat, "v4", SSH, HERE)) == is_found


def test_where_the_hosts_addresses_are_not_known_each_one_may_be_its_own() -> None:
    assert published(Table(CHAINS, ["-A PREROUTING -d 198.18.0.3/32 " + AWAY]), "v4", SSH)


@pytest.mark.parametrize(
    ("rule", "is_certain"),
    [
        ("-p tcp -m tcp --dport 22 " + AWAY, True),
        ("! -i docker0 -p tcp -m tcp --dport 22 " + AWAY, True),
        ("-m set --match-set ports dst " + AWAY, False),
        ("-p tcp -m tcp --dport 22 -j FULLCONENAT", False),
    ],
)
def test_what_is_not_known_is_said(rule: str, is_certain: bool) -> None:
    (found,) = published(Table(CHAINS, ["-A PREROUTING " + rule]), "v4", SSH, HERE)
    assert (found.ports, found.rule, found.is_certain) == ("22/tcp", "-A PREROUTING " + rule, is_certain)


def test_ports_of_both_protocols_and_ranges_are_told_apart() -> None:
    protected = [Ports(22, 22, "tcp"), Ports(60000, 60010, "udp")]
    nat = Table(CHAINS, ["-A PREROUTING -p udp -m udp --dport 60005 " + AWAY])
    assert [found.ports for found in published(nat, "v4", protected)] == ["60000-60010/udp"]


# --- nftables --------------------------------------------------------------------------------------------------------

DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
TO = {"dnat": {"addr": "198.18.1.2"}}


def listed(*expression: Any, hook: str = "prerouting", kind: str = "nat", **named: Any) -> list[dict[str, Any]]:
    """As `nft --json list ruleset` has it: a rule of a base chain, a chain `x` that dnats, sets and maps."""
    here = {"family": "ip", "table": "mine"}
    found: list[dict[str, Any]] = [{"metainfo": {}}]
    for name, elements in named.items():
        more = {"flags": ["timeout"]} if name.startswith("passing") else {}
        what = "set" if name.endswith("set") else "map"
        found.append({what: {**here, "name": name, **more, "elem": elements}})
    found.append({"chain": {**here, "name": "x"}})
    found.append({"chain": {**here, "name": "pre", "type": kind, "hook": hook, "prio": -100, "policy": "accept"}})
    found.append({"rule": {**here, "chain": "x", "handle": 2, "expr": [TO]}})
    found.append({"rule": {**here, "chain": "pre", "handle": 4, "expr": list(expression)}})
    return found


def match(right: Any, left: Any = DPORT, operator: str = "==") -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


PAIR = {"concat": [{"payload": {"protocol": "ip", "field": "daddr"}}, DPORT]}
JUMP = {"jump": {"target": "x"}}


@pytest.mark.parametrize(
    ("steps", "named", "is_found"),
    [
        ([match(22), TO], {}, True),
        ([match({"set": [80, 22]}), TO], {}, True),
        ([match({"set": [{"range": [20, 30]}]}), TO], {}, True),
        ([match({"range": [1, 1024]}), TO], {}, True),
        ([match(2222), TO], {}, False),
        ([match(22, operator="!="), TO], {}, False),
        ([match({"set": [22, 80]}, operator="!="), {"redirect": {"port": 2222}}], {}, False),
        ([match(1024, operator=">"), TO], {}, False),
        ([match("@pset"), TO], {"pset": [22]}, True),
        ([match("@pset"), TO], {"pset": [80]}, False),
        ([match("@passing_set"), TO], {"passing_set": [80]}, True),
        ([match("@nowhere"), TO], {}, True),
        ([match(22), JUMP], {}, True),
        ([match(443), JUMP], {}, False),
        ([{"vmap": {"key": DPORT, "data": {"set": [[22, JUMP]]}}}], {}, True),
        ([{"vmap": {"key": DPORT, "data": {"set": [[80, JUMP], [22, {"accept": None}]]}}}], {}, False),
        ([{"vmap": {"key": DPORT, "data": "@m"}}], {"m": [[22, JUMP]]}, True),
        ([{"vmap": {"key": DPORT, "data": "@m"}}], {"m": [[{"elem": {"val": 22, "comment": "git"}}, JUMP]]}, True),
        ([{"vmap": {"key": DPORT, "data": "@m"}}], {"m": [[80, JUMP]]}, False),
        ([{"vmap": {"key": DPORT, "data": "@passing"}}], {"passing": [[80, JUMP]]}, True),
        ([{"vmap": {"key": PAIR, "data": "@m"}}], {"m": [[{"concat": ["198.18.0.2", 22]}, JUMP]]}, True),
        ([{"vmap": {"key": PAIR, "data": "@m"}}], {"m": [[{"concat": ["198.18.0.2", 80]}, JUMP]]}, False),
        ([match({"set": [{"concat": ["198.18.0.2", 22]}]}, PAIR), TO], {}, True),
        ([match({"set": [{"concat": ["198.18.0.2", {"range": [20, 30]}]}]}, PAIR), TO], {}, True),
        ([match({"set": [{"concat": ["198.18.0.2", 23]}]}, PAIR), TO], {}, False),
        ([{"dnat": {"addr": {"map": {"key": DPORT, "data": {"set": [[22, "198.18.1.2"]]}}}}}], {}, True),
        ([{"dnat": {"addr": {"map": {"key": DPORT, "data": {"set": [[80, "198.18.1.2"]]}}}}}], {}, False),
        ([{"dnat": {"addr": {"map": {"key": DPORT, "data": "@m"}}}}], {"m": [[22, "198.18.1.2"]]}, True),
        ([{"dnat": {"addr": {"map": {"key": DPORT, "data": "@m"}}}}], {"m": [[80, "198.18.1.2"]]}, False),
        ([{"dnat": {"addr": {"map": {"key": DPORT, "data": "@nowhere"}}}}], {}, True),
        ([{"redirect": {"port": {"map": {"key": DPORT, "data": {"set": [[22, 2222]]}}}}}], {}, True),
        ([{"redirect": None}], {}, True),
        (["redirect"], {}, True),
        ([match(255, {"&": [DPORT, 255]}), TO], {}, True),
        ([match("198.18.0.2", PAIR["concat"][0]), TO], {}, True),
        ([match("198.18.0.3", PAIR["concat"][0]), TO], {}, False),
        ([match("eth0", {"meta": {"key": "iifname"}}), TO], {}, True),
        ([match("lo", {"meta": {"key": "iifname"}}), TO], {}, False),
        (
            [match(22), {"xt": {"type": "match", "name": "comment"}}, {"xt": {"type": "target", "name": "DNAT"}}],
            {},
            True,
        ),
        ([match(80), {"xt": {"type": "target", "name": "REDIRECT"}}], {}, False),
        ([match(22), {"xt": {"type": "target", "name": "MARK"}}], {}, False),
        ([{"no": "such thing"}, TO], {}, True),
        ([{"vmap": 7}], {}, True),
    ],
    ids=str,
)
def test_a_rule_of_nftables_is_found_in_each_spelling(steps: list[Any], named: dict[str, Any], is_found: bool) -> None:
    found = published_by_nftables(listed(*steps, **named), SSH, {"v4": HERE})
    assert {item.ports for item in found} == ({"22/tcp"} if is_found else set())


def test_the_rule_that_sends_it_elsewhere_is_named() -> None:
    for steps, handle in (([match(22), TO], 4), ([match(22), JUMP], 2)):
        (found,) = published_by_nftables(listed(*steps), SSH, {})
        assert "handle %d in nftables chain ip mine" % handle in found.rule
        assert found.is_certain


def test_only_what_comes_from_outside_counts() -> None:
    for hook, kind in (("output", "nat"), ("prerouting", "filter"), ("input", "nat")):
        assert published_by_nftables(listed(match(22), TO, hook=hook, kind=kind), SSH, {}) == []


def test_a_chain_that_iptables_has_shown_is_not_told_twice() -> None:
    assert published_by_nftables(listed(match(22), TO), SSH, {}, ["ip mine pre"]) == []
    assert published_by_nftables(listed(match(22), TO), SSH, {}, ["ip mine PREROUTING"])


@pytest.mark.parametrize(
    "step", [{"set": {"op": "add", "elem": DPORT, "set": "@pset"}}, "add @pset { tcp dport }"], ids=str
)
def test_a_set_that_rules_add_to_is_not_known_also_where_its_flags_are_not_listed(step: Any) -> None:
    rules = listed(match("@pset"), TO, pset=[80])
    assert published_by_nftables(rules, SSH, {}) == []
    adding = {"rule": {"family": "ip", "table": "mine", "chain": "x", "handle": 9, "expr": [step]}}
    assert [item.is_certain for item in published_by_nftables([*rules, adding], SSH, {})] == [False]


def test_thousands_of_services_that_lead_elsewhere_are_read_one_by_one() -> None:
    elements = [[{"concat": ["198.18.%d.%d" % divmod(n, 256), 1024 + n]}, JUMP] for n in range(4000)]
    steps = {"vmap": {"key": PAIR, "data": "@m"}}
    assert published_by_nftables(listed(steps, m=elements), SSH, {"v4": HERE}) == []
    assert published_by_nftables(
        listed(steps, m=[*elements, [{"concat": ["198.18.0.2", 22]}, JUMP]]), SSH, {"v4": HERE}
    )
