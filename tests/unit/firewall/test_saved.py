# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Saved rules of others: what an administrator wrote is kept; bans, holes and Docker's chains never are."""

from __future__ import annotations

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._iptables import is_all_that_was_kept
from ansible_collections.sesame.knock.plugins.module_utils._rules import Ports, foreign, parse
from ansible_collections.sesame.knock.plugins.module_utils._saved import Sorted, sort

PROTECTED = [Ports(22, 22, "tcp"), Ports(60000, 60010, "udp")]

ALL_OF_IT = """\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A POSTROUTING -s 198.18.7.0/24 -o eth0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-USER - [0:0]
:f2b-sshd - [0:0]
:mine - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A INPUT -s 198.18.0.66/32 -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -p tcp -m tcp --dport 25 -j mine
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o br-0123456789ab -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -s 198.18.9.0/24 -j DROP
-A DOCKER-USER -j RETURN
-A f2b-sshd -s 198.18.0.99/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
-A mine -j DROP
COMMIT
"""


def sort_rules(*rules: str, chains: tuple[str, ...] = ()) -> Sorted:
    lines = ["*filter", ":INPUT ACCEPT [0:0]", *(":%s - [0:0]" % chain for chain in chains)]
    return sort(foreign(parse("\n".join([*lines, *("-A " + rule for rule in rules), "COMMIT", ""]))), PROTECTED)


def test_what_an_administrator_wrote_is_kept_in_its_order() -> None:
    kept = sort(foreign(parse(ALL_OF_IT)), PROTECTED).kept
    assert kept["nat"].rules == ["-A POSTROUTING -s 198.18.7.0/24 -o eth0 -j MASQUERADE"]
    assert kept["filter"].rules == [
        "-A INPUT -p tcp -m tcp --dport 25 -j mine",
        "-A DOCKER-USER -s 198.18.9.0/24 -j DROP",
        "-A DOCKER-USER -j RETURN",
        "-A mine -j DROP",
    ]
    assert kept["filter"].chains == {"INPUT": "ACCEPT", "FORWARD": "DROP", "DOCKER-USER": "-", "mine": "-"}
    assert kept["nat"].chains == {"PREROUTING": "ACCEPT", "POSTROUTING": "ACCEPT"}


def test_each_line_of_a_file_is_either_kept_or_named() -> None:
    tables = foreign(parse(ALL_OF_IT))
    kept, left_out = sort(tables, PROTECTED)
    lines = ["%s: %s" % (name, rule) for name, table in kept.items() for rule in table.rules]
    lines += [line for line in left_out if ": chain " not in line]
    assert sorted(lines) == sorted("%s: %s" % (n, rule) for n, table in tables.items() for rule in table.rules)


@pytest.mark.parametrize(
    ("rule", "is_hole"),
    [
        ("INPUT -s 198.18.0.66/32 -p tcp -m tcp --dport 22 -j ACCEPT", True),
        ("INPUT -s fd00:5e5a::66/128 -p tcp -m tcp --dport 22 -j ACCEPT", True),
        ("INPUT -s 198.18.0.66/32 -p udp -m udp --dport 60000:60010 -j ACCEPT", True),
        ("INPUT -s 198.18.0.66/32 -i eth0 -p tcp -m tcp --dport 22 -j ACCEPT", True),
        ("INPUT -s 198.18.0.66/32 -p tcp -m tcp --dport 443 -j ACCEPT", False),
        ("INPUT -s 198.18.0.66/32 -p tcp -m multiport --dports 22,443 -j ACCEPT", False),
        ("INPUT -s 198.18.0.66/32 -p udp -m udp --dport 22 -j ACCEPT", False),
        ("INPUT -s 198.18.0.66/32 -j ACCEPT", False),
        ("INPUT -s 198.18.0.0/24 -p tcp -m tcp --dport 22 -j ACCEPT", False),
        ("INPUT ! -s 198.18.0.66/32 -p tcp -m tcp --dport 22 -j ACCEPT", False),
        ("INPUT -s 198.18.0.66/32 -p tcp -m tcp --dport 22 -j DROP", False),
    ],
)
def test_the_hole_of_a_knock_is_never_kept_and_nothing_wider_is_taken_for_one(rule: str, is_hole: bool) -> None:
    assert sort_rules(rule).left_out == (["filter: -A " + rule] if is_hole else [])


@pytest.mark.parametrize(
    "rule",
    [
        "INPUT -p tcp -m multiport --dports 22 -j f2b-sshd",
        "INPUT -p tcp -m set --match-set f2b-sshd src -j REJECT",
        "INPUT -m set --match-set crowdsec-blacklists src -j DROP",
        "INPUT -i docker0 -j ACCEPT",
        "INPUT ! -i br-0123456789ab -j ACCEPT",
        "FORWARD -o virbr0 -j LIBVIRT_FWI",
        "INPUT -j KUBE-FIREWALL",
        "INPUT -j ts-input",
    ],
)
def test_what_programs_make_again_is_never_kept(rule: str) -> None:
    kept, left_out = sort_rules(rule)
    assert left_out == ["filter: -A " + rule]
    assert kept == {}


@pytest.mark.parametrize(
    "rule", ["INPUT -i br-lan -j ACCEPT", "INPUT -i eth0 -j dockers", "INPUT -m set --match-set my src -j DROP"]
)
def test_names_that_only_look_like_it_are_kept(rule: str) -> None:
    assert sort_rules(rule).left_out == []


def test_a_chain_without_a_rule_is_named_too() -> None:
    assert sort_rules(chains=("f2b-sshd",)) == Sorted({}, ["filter: chain f2b-sshd"])


def test_nothing_that_is_kept_jumps_to_what_is_not() -> None:
    kept, left_out = sort_rules(
        "DOCKER-USER -j f2b-web", "DOCKER-USER -j DROP", "f2b-web -j RETURN", chains=("DOCKER-USER", "f2b-web")
    )
    assert kept["filter"].rules == ["-A DOCKER-USER -j DROP"]
    assert len(left_out) == 2


def test_docker_user_as_docker_makes_it_is_dockers() -> None:
    kept, left_out = sort_rules("DOCKER-USER -j RETURN", chains=("DOCKER-USER",))
    assert kept == {}
    assert left_out == ["filter: -A DOCKER-USER -j RETURN"]


HEAD = "*filter\n:INPUT ACCEPT [0:0]\n"
MINE = "-A INPUT -p tcp -m tcp --dport 25 -j DROP\n"
HOLE = "-A INPUT -s 198.18.0.66/32 -p tcp -m tcp --dport 22 -j ACCEPT\n"
OURS = HEAD + ":KNOCK - [0:0]\n-A INPUT -j KNOCK\n-A KNOCK -p tcp -m tcp --dport 22 -j KNOCK-ADMIT\n%sCOMMIT\n"


@pytest.mark.parametrize(
    ("kept", "comes_back"), [(MINE, True), ("", False), (MINE + "-A INPUT -p udp -j DROP\n", False)]
)
def test_the_file_of_before_comes_back_unless_somebody_has_changed_it_since(kept: str, comes_back: bool) -> None:
    original = HEAD + HOLE + MINE + "COMMIT\n"
    rest = HEAD + ":FORWARD ACCEPT [0:0]\n" + kept + "COMMIT\n"
    assert is_all_that_was_kept(rest, original, OURS % kept) is comes_back


def test_a_host_that_had_no_file_gets_none_back() -> None:
    assert is_all_that_was_kept(None, None, OURS % "")
    assert not is_all_that_was_kept(HEAD + MINE + "COMMIT\n", None, OURS % MINE)
