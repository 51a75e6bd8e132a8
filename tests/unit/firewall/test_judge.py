# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules are held to what gates promise: who is locked out, who gets in, and which rule decides."""

from __future__ import annotations

import functools
import json
import time
from typing import Any, Sequence

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._gates import Gate
from ansible_collections.sesame.knock.plugins.module_utils._judge import Case, Judgement, judge_all
from ansible_collections.sesame.knock.plugins.module_utils._rules import Table, after, parse, parse_ports
from ansible_collections.sesame.knock.plugins.module_utils._walk import base_chains

from .rendering import host_with, render

FAMILIES = ("v4", "v6")
ALLOW = ("198.18.0.16/28", "198.18.7.7/32", "fd00:5e5a::/64")
SSH = (parse_ports(22),)
GATE = Gate("protected", SSH, ALLOW, 0x1000)
ESCAPE = Gate("escape", (parse_ports(2222),), ALLOW, 0)
OPEN = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
CLOSED = OPEN.replace("INPUT ACCEPT", "INPUT DROP")
SYN_REFUSAL = "`-A KNOCK-ADMIT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT --reject-with tcp-reset`"
SYN_DROP = SYN_REFUSAL.replace("REJECT --reject-with tcp-reset", "DROP")


def judge(tables: dict[str, Table], family: str, gates: Sequence[Gate]) -> Judgement:
    """Hold tables of iptables to the promises of the gates."""
    return judge_all([Case(base_chains(tables, family), family)], gates)


def candidate(family: str, saved: str = OPEN, allow: tuple[str, ...] = ALLOW, **variables: Any) -> dict[str, Table]:
    """What role knock_firewall writes on a host with these rules."""
    variables = {"knock_firewall_allowlist": list(allow), "knock_firewall_allow_empty_allowlist": True, **variables}
    return parse(_rendered(family, saved, json.dumps(variables)))


@functools.cache
def _rendered(family: str, saved: str, variables: str) -> str:
    return render("rules.%s.j2" % family, host_with(saved, saved), **json.loads(variables))


def lacking(tables: dict[str, Table], words: str) -> dict[str, Table]:
    """The same without the rules that say so."""
    found = [rule for table in tables.values() for rule in table.rules if words in rule + "\n"]
    assert found
    return {
        name: Table(table.chains, [rule for rule in table.rules if rule not in found]) for name, table in tables.items()
    }


def with_first(tables: dict[str, Table], *rules: str, table: str = "filter") -> dict[str, Table]:
    """The same with rules before all others."""
    there = tables[table]
    chains = {rule.split()[1]: "-" for rule in rules}
    return {**tables, table: Table({**chains, **there.chains}, [*rules, *there.rules])}


def with_last(tables: dict[str, Table], *rules: str, policy: str = "ACCEPT") -> dict[str, Table]:
    """The same with rules of others after ours."""
    there = tables["filter"]
    chains = {rule.split()[1]: "-" for rule in rules}
    return {**tables, "filter": Table({**chains, **there.chains, "INPUT": policy}, [*there.rules, *rules])}


def filter_of(*rules: str, policy: str = "ACCEPT") -> dict[str, Table]:
    chains = {rule.split()[1]: "-" for rule in rules}
    return {"filter": Table({**chains, "INPUT": policy}, list(rules))}


def said(judgement: Judgement, *words: str) -> bool:
    """Whether one problem, and no other, says all of these words."""
    assert len(judgement.problems) == 1, judgement
    assert not [word for word in words if word not in judgement.problems[0]], judgement
    return True


# --- what the role writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "saved", [OPEN, CLOSED, OPEN.replace("COMMIT", "-A INPUT -i lo -j ACCEPT\n-A INPUT -j DROP\nCOMMIT")]
)
@pytest.mark.parametrize(
    ("gates", "variables"),
    [
        ([GATE], {}),
        ([GATE], {"knock_firewall_refuse": "drop"}),
        ([GATE], {"knock_firewall_refuse": "reset"}),
        ([GATE, ESCAPE], {"knock_firewall_escape_port": 2222}),
        ([GATE, ESCAPE], {"knock_firewall_escape_port": 2222, "knock_firewall_published": "protect"}),
        (
            [GATE._replace(ports=SSH + (parse_ports("60000-60010/udp"),))],
            {"knock_firewall_ports": ["22/tcp", "60000-60010/udp"]},
        ),
        ([GATE._replace(allow=("198.18.0.16/28",))], {"allow": ("198.18.0.16/28",)}),
        ([GATE._replace(allow=())], {"allow": ()}),
        ([GATE._replace(mark=0x40)], {"knock_firewall_mark": "0x40"}),
    ],
)
def test_what_the_role_writes_keeps_every_promise(
    family: str, saved: str, gates: list[Gate], variables: dict[str, Any]
) -> None:
    assert judge(candidate(family, saved, **variables), family, gates) == Judgement([], [])


FAIL2BAN = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:f2b-sshd - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A INPUT -m comment --comment "a \\"-j ACCEPT\\" in words" -j NFLOG --nflog-group 1
-A FORWARD -o docker0 -j DOCKER
-A f2b-sshd -s 198.18.0.17/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -s 198.18.90.0/24 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
COMMIT
"""


def test_fail2ban_before_and_docker_behind_break_no_promise() -> None:
    live = parse(FAIL2BAN)
    for tables in (candidate("v4", FAIL2BAN), after(live, candidate("v4"))):
        assert judge(tables, "v4", [GATE]) == Judgement([], [])
    first = after(live, candidate("v4"))["filter"].rules
    assert first.index("-A INPUT -j KNOCK") < first.index("-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd")


TAILSCALE = """\
*filter
:INPUT ACCEPT [0:0]
:ts-input - [0:0]
-A INPUT -j ts-input
-A ts-input -s 100.99.98.97/32 -i lo -j ACCEPT
-A ts-input -s 100.115.92.0/23 ! -i tailscale0 -j RETURN
-A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP
-A ts-input -i tailscale0 -j ACCEPT
-A ts-input -p udp -m udp --dport 41641 -j ACCEPT
COMMIT
"""


def test_tailscale_is_put_behind_us_and_before_us_may_let_strangers_in() -> None:
    live = parse(TAILSCALE)
    tables = after(live, candidate("v4"))
    assert judge(tables, "v4", [GATE]) == Judgement([], [])
    rules = tables["filter"].rules
    rules.insert(0, rules.pop(rules.index("-A INPUT -j ts-input")))
    rule = "-A ts-input -i tailscale0 -j ACCEPT"
    assert said(judge(tables, "v4", [GATE]), "a stranger may reach 22/tcp, by rule `%s`" % rule)
    assert after(tables, candidate("v4"))["filter"].rules_of("INPUT")[0] == "-A INPUT -j KNOCK", "and is put right"


@pytest.mark.parametrize(
    "ban",
    [
        "-A INPUT -s 198.18.0.17/32 -j DROP",
        "-A INPUT -s 203.0.113.0/24 -p tcp -m tcp --dport 22 -j DROP",
        "-A INPUT -p tcp -m multiport --dports 22,80 -m set --match-set f2b-sshd src -j REJECT",
        "-A INPUT -p tcp -m tcp --dport 22 -m recent --update --seconds 60 --hitcount 4 --name x --rsource -j DROP",
        "-A INPUT -m geoip --source-country XX -j DROP",
        "-A INPUT -m iprange --src-range 198.18.0.20-198.18.0.21 -j DROP",
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        "-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP",
        "-A INPUT -s 127.0.0.0/8 ! -i lo -j DROP",
        "-A INPUT -d 127.0.0.0/8 ! -i lo -j DROP",
        "-A INPUT -p udp -j DROP",
        "-A INPUT -p tcp -m tcp ! --dport 22 -j DROP",
        "-A INPUT -m mark --mark 0x2/0x2 -j DROP",
        "-A INPUT -m addrtype --dst-type MULTICAST -j DROP",
        "-A INPUT -p tcp -m connlimit --connlimit-above 9 --connlimit-mask 32 --connlimit-saddr -j DROP",
        "-A INPUT -p tcp -m hashlimit --hashlimit-above 9/min --hashlimit-name x -j DROP",
    ],
)
def test_a_refusal_of_some_before_or_after_ours_is_no_lock_out(ban: str) -> None:
    assert judge(with_first(candidate("v4"), ban), "v4", [GATE]) == Judgement([], [])
    assert judge(with_last(candidate("v4"), ban), "v4", [GATE]) == Judgement([], [])


def test_a_limit_that_accepts_before_a_refusal_is_no_lock_out() -> None:
    rules = ("-A INPUT -p tcp --dport 22 -m limit --limit 9/min -j ACCEPT", "-A INPUT -i lo -j ACCEPT")
    last = ("-A INPUT -m state --state ESTABLISHED -j ACCEPT", "-A INPUT -p tcp --dport 22 -j DROP")
    assert judge(with_last(candidate("v4"), *rules, *last), "v4", [GATE]).problems == []


@pytest.mark.parametrize(
    "hole", ["-A INPUT -s 203.0.113.9/32 -p tcp -m tcp --dport 22 -j ACCEPT", "-A INPUT -s 203.0.113.9/32 -j ACCEPT"]
)
def test_the_hole_of_a_command_door_lets_no_stranger_in(hole: str) -> None:
    assert judge(with_first(candidate("v4"), hole), "v4", [GATE]) == Judgement([], [])


# --- strangers who get in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_jump_lets_a_stranger_in(family: str) -> None:
    name = {"v4": "IPv4", "v6": "IPv6"}[family]
    assert judge(lacking(candidate(family), "-A INPUT -j KNOCK\n"), family, [GATE]).problems == [
        "%s: a stranger reaches 22/tcp, by the policy ACCEPT of INPUT of the filter table." % name
    ]


def test_a_family_that_was_forgotten_lets_a_stranger_in() -> None:
    assert judge({}, "v6", [GATE]).problems == ["IPv6: a stranger reaches 22/tcp, by the missing filter table."]


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
        "-A INPUT -j ACCEPT",
        "-A INPUT -s 203.0.113.0/24 -j ACCEPT",
        "-A INPUT ! -s 203.0.113.9/32 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A INPUT -p tcp -m multiport --dports 80,20:25 -j ACCEPT",
        "-A INPUT -p tcp -m tcp ! --dport 80 -j ACCEPT",
        "-A INPUT -p tcp -m tcp --sport 53 -j ACCEPT",
        "-A INPUT ! -i lo -m conntrack --ctstate NEW -j ACCEPT",
        "-A INPUT -m iprange --src-range 203.0.113.7-203.0.113.8 -j ACCEPT",
        '-A INPUT -p 6 -m comment --comment "it\'s -s 203.0.113.9/32" -j ACCEPT',
        "-A INPUT -m mark ! --mark 0x1/0x1 -j ACCEPT",
    ],
)
def test_an_accept_above_our_jump_lets_strangers_in(rule: str) -> None:
    assert said(judge(with_first(candidate("v4"), rule), "v4", [GATE]), "a stranger reaches 22/tcp", "`%s`" % rule)


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -i tailscale0 -j ACCEPT",
        "-A INPUT -d 198.18.0.1/32 -p tcp -j ACCEPT",
        "-A INPUT -m set --match-set friends src -j ACCEPT",
        "-A INPUT -p tcp -m recent --rcheck --name KNOCKED --rsource -j ACCEPT",
        "-A INPUT -m limit --limit 5/sec -j ACCEPT",
        "-A INPUT -m connmark --mark 0x1 -j ACCEPT",
        "-A INPUT -m owner --uid-owner 0 -j ACCEPT",
        "-A INPUT -p tcp -j NFQUEUE --queue-num 0 --queue-bypass",
        "-A INPUT -p tcp -j SYNPROXY --sack-perm",
        "-A INPUT -m physdev --physdev-in eth1 -j ACCEPT",
    ],
)
def test_an_accept_that_cannot_be_read_may_let_strangers_in(rule: str) -> None:
    assert said(judge(with_first(candidate("v4"), rule), "v4", [GATE]), "a stranger may reach 22/tcp", "`%s`" % rule)


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -p udp -m set --match-set x src -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 443 -m set --match-set x src -j ACCEPT",
        "-A INPUT -m set --match-set x src -j LOG",
        "-A INPUT -m set --match-set x src -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A INPUT -i lo -m set --match-set x src -j ACCEPT",
        "-A INPUT -p tcp ! --syn -j ACCEPT",
        "-A INPUT -m set --match-set x src -j RETURN",
    ],
)
def test_only_an_accept_of_such_packets_counts(rule: str) -> None:
    problems = judge(with_first(candidate("v4"), rule), "v4", [GATE]).problems
    assert problems == [] or rule.endswith("RETURN")
    if problems:
        assert "may reach 22/tcp, by the policy ACCEPT of INPUT of the filter table, after `%s`" % rule in problems[0]


def test_an_accept_in_a_chain_is_named_with_its_chain() -> None:
    rules = ("-A INPUT -p tcp -g web", "-A web -p tcp -m tcp --dport 1:1024 -j ACCEPT")
    assert said(judge(with_first(candidate("v4"), *rules), "v4", [GATE]), "`%s` of the filter table" % rules[1])


def test_only_the_ports_that_are_reached_are_named() -> None:
    gate = GATE._replace(ports=(parse_ports("60000-60010/udp"),))
    hole = "-A INPUT -p udp -m udp --dport 60003:60004 -j ACCEPT"
    tables = with_first(candidate("v4", knock_firewall_ports=["60000-60010/udp"]), hole)
    assert judge(tables, "v4", [gate]).problems == [
        "IPv4: a stranger reaches 60003-60004/udp, by rule `%s` of the filter table." % hole
    ]


@pytest.mark.parametrize("words", ["--set-xmark 0x0/0x1000", "-A INPUT -j KNOCK-MARK"])
def test_a_foreign_mark_that_is_not_cleared_lets_a_stranger_in(words: str) -> None:
    assert said(
        judge(lacking(candidate("v4"), words), "v4", [GATE]),
        "a stranger whose packets carry a foreign mark reaches 22/tcp",
        "after `-A KNOCK-ADMIT -m mark --mark 0x1000/0x1000 -j RETURN`",
    )


def test_an_accept_of_mangle_does_not_let_in_but_keeps_a_foreign_mark() -> None:
    tables = with_first(candidate("v4"), "-A INPUT -p tcp -j ACCEPT", table="mangle")
    assert said(judge(tables, "v4", [GATE]), "foreign mark")


@pytest.mark.parametrize(
    ("rule", "is_leak"),
    [
        ("-A INPUT -j MARK --set-xmark 0x1000/0x1000", True),
        ("-A INPUT -j MARK --set-xmark 0x3000/0xffffffff", True),
        ("-A INPUT -j MARK --or-mark 0x1000", True),
        ("-A INPUT -j MARK --xor-mark 0x1000", True),
        ("-A INPUT -j MARK --set-mark 0x1000", True),
        ("-A INPUT -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", True),
        ("-A INPUT -m set --match-set x src -j MARK --set-xmark 0x1000/0x1000", True),
        ("-A INPUT -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", False),
        ("-A INPUT -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", False),
        ("-A INPUT -j MARK --and-mark 0xff", False),
        ("-A INPUT -j MARK --set-xmark 0x40000/0xff0000", False),
    ],
)
def test_a_mark_that_others_set_after_ours_is_followed(rule: str, is_leak: bool) -> None:
    tables = candidate("v4")
    tables["mangle"].rules.append(rule)
    problems = judge(tables, "v4", [GATE]).problems
    assert bool(problems) == is_leak
    assert all("--mark 0x1000/0x1000 -j RETURN" in problem for problem in problems)


def test_what_was_unknown_of_a_mark_is_known_once_it_is_cleared() -> None:
    restore = "-A INPUT -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
    assert judge(with_first(candidate("v4"), restore, table="mangle"), "v4", [GATE]) == Judgement([], [])


def test_a_knock_does_not_open_the_way_out() -> None:
    tables = candidate("v4", CLOSED, knock_firewall_escape_port=2222)
    rule = "-A KNOCK-ESCAPE -m mark --mark 0x1000/0x1000 -j ACCEPT"
    assert said(
        judge(with_first(tables, rule), "v4", [GATE, ESCAPE]),
        "a stranger who has knocked elsewhere reaches 2222/tcp",
        rule,
    )


def test_every_rule_of_many_that_lets_in_counts() -> None:
    rules = ["-A INPUT -s 203.0.%d.0/24 -j ACCEPT" % number for number in range(9)]
    problems = judge(with_first(candidate("v4"), *rules), "v4", [GATE]).problems
    assert len(problems) == 6
    assert problems[-1] == "IPv4: a stranger reaches 22/tcp by 4 more rules."


# --- who is locked out -----------------------------------------------------------------------------------------------


def test_a_forgotten_allowlist_is_locked_out() -> None:
    gate = GATE._replace(allow=("198.18.0.16/28",))
    assert judge(candidate("v4", allow=()), "v4", [gate]).problems == [
        "IPv4: the allowlisted 198.18.0.16/28 does not reach 22/tcp: %s of the filter table decides." % SYN_REFUSAL
    ]


def test_an_allowlist_that_is_only_partly_there_is_said_to_be() -> None:
    gate = GATE._replace(allow=("198.18.0.16/28",))
    judgement = judge(candidate("v4", allow=("198.18.0.16/29",)), "v4", [gate])
    assert said(judgement, "the allowlisted 198.18.0.16/28 reaches 22/tcp only in part", SYN_REFUSAL)


def test_a_missing_rule_for_the_mark_locks_knockers_out() -> None:
    judgement = judge(lacking(candidate("v4"), "--mark 0x1000/0x1000"), "v4", [GATE])
    assert said(judgement, "an admitted knocker does not reach 22/tcp", SYN_REFUSAL)


def test_rules_in_the_wrong_order_lock_out() -> None:
    tables = candidate("v4", knock_firewall_refuse="drop")
    rules = tables["filter"].rules
    refusal = next(rule for rule in rules if "--tcp-flags" in rule)
    rules.remove(refusal)
    rules.insert(rules.index("-A KNOCK-ADMIT -s 198.18.0.16/28 -j RETURN"), refusal)
    assert judge(tables, "v4", [GATE]).problems == [
        "IPv4: nobody gets in to 22/tcp, neither the allowlist nor a knocker: %s of the filter table decides."
        % SYN_DROP
    ]


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -j DROP",
        "-A INPUT -p tcp -m tcp --dport 22 -j REJECT --reject-with icmp-port-unreachable",
        "-A INPUT -p tcp -m multiport --dports 20:30 -m comment --comment x -j TARPIT",
        "-A INPUT ! -i lo -m conntrack --ctstate NEW -j DROP",
    ],
)
def test_a_refusal_of_all_before_ours_leaves_nobody(rule: str) -> None:
    problems = judge(with_first(candidate("v4"), rule), "v4", [GATE]).problems
    sentence = "IPv4: nobody gets in to 22/tcp, neither the allowlist nor a knocker: `%s` of the filter table decides."
    assert sentence % rule in problems


def test_a_refusal_of_all_but_one_shuts_the_others_out() -> None:
    rule = "-A INPUT ! -s 198.18.7.7/32 ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"
    first, second = judge(with_first(candidate("v4"), rule), "v4", [GATE]).problems
    assert "the allowlisted 198.18.0.16/28 does not reach 22/tcp: `%s`" % rule in first
    assert "an admitted knocker does not reach 22/tcp: `%s`" % rule in second


def test_a_name_in_mangle_does_not_make_a_ban_of_a_refusal_in_the_filter() -> None:
    tables = with_first(candidate("v4", allow=()), "-A INPUT -s 198.18.0.16/29 -j ACCEPT", table="mangle")
    tables = with_first(tables, "-A INPUT -s 198.18.0.24/29 -p tcp --syn -j ACCEPT")
    gate = GATE._replace(allow=("198.18.0.16/28",))
    assert said(judge(tables, "v4", [gate]), "198.18.0.16/28 reaches 22/tcp only in part", SYN_REFUSAL)


def test_our_return_is_not_enough_where_a_later_rule_refuses() -> None:
    rule = "-A INPUT -p tcp -m tcp --dport 22 -j DROP"
    problems = judge(with_last(candidate("v4"), rule), "v4", [GATE]).problems
    assert [problem for problem in problems if "nobody gets in to 22/tcp" in problem and rule in problem]
    assert [problem for problem in problems if "running sessions of 22/tcp end: `%s`" % rule in problem]
    assert [problem for problem in problems if "the host itself does not reach 22/tcp: `%s`" % rule in problem]


def test_a_policy_decides_too() -> None:
    problems = judge(with_last(candidate("v4"), policy="DROP"), "v4", [GATE]).problems
    by = "the policy DROP of INPUT of the filter table decides."
    assert "IPv4: nobody gets in to 22/tcp, neither the allowlist nor a knocker: " + by in problems
    assert "IPv4: running sessions of 22/tcp end: " + by in problems


def test_a_homemade_knock_by_recent_locks_out_all_who_have_not_knocked_there() -> None:
    rules = (
        "-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT",
        "-A INPUT -i lo -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 22 -m recent --rcheck --seconds 30 --name OPEN --rsource -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 22 -j DROP",
    )
    assert said(judge(with_last(candidate("v4"), *rules), "v4", [GATE]), "nobody gets in to 22/tcp", rules[-1])


def test_a_candidate_without_a_rule_for_running_sessions_ends_them_where_all_else_is_refused() -> None:
    tables = lacking(candidate("v4", CLOSED), "--ctstate RELATED,ESTABLISHED")
    assert judge(tables, "v4", [GATE]).problems == [
        "IPv4: running sessions of 22/tcp end: the policy DROP of INPUT of the filter table decides."
    ]


def test_the_host_itself_is_not_locked_out() -> None:
    tables = lacking(candidate("v4", CLOSED), "-i lo")
    assert said(judge(tables, "v4", [GATE]), "the host itself does not reach 22/tcp", SYN_DROP)


def test_a_port_that_is_open_to_all_is_reached_by_all() -> None:
    gate = Gate("web", (parse_ports(443),), ("0.0.0.0/0", "::/0"))
    assert judge(filter_of(), "v4", [gate]) == Judgement([], [])
    rule = "-A INPUT -p tcp -m tcp --dport 443 --tcp-flags FIN,SYN,RST,ACK SYN ! -i lo -j DROP"
    assert said(judge(with_first(filter_of(), rule), "v4", [gate]), "nobody gets in to 443/tcp", rule)
    rule = "-A INPUT ! -s 198.18.0.0/15 ! -i lo -p tcp --syn -j DROP"
    assert said(judge(with_first(filter_of(), rule), "v4", [gate]), "everybody reaches 443/tcp only in part", rule)


def test_the_ban_of_an_allowlisted_address_is_remarked_and_leaving_nobody_is_a_problem() -> None:
    ban = "-A INPUT -s 198.18.7.7/32 -j DROP"
    tables = with_first(candidate("v4"), ban)
    remark = "IPv4: the allowlisted 198.18.7.7/32 is banned from 22/tcp, by `%s` of the filter table." % ban
    assert judge(tables, "v4", [GATE]) == Judgement([], [remark])
    alone = GATE._replace(allow=("198.18.7.7/32",), mark=0)
    assert "nobody gets in to 22/tcp, not even the allowlist: `%s`" % ban in judge(tables, "v4", [alone]).problems[-1]


def test_a_refusal_of_the_network_around_an_allowlisted_address_is_no_ban() -> None:
    rule = "-A INPUT -s 198.18.7.0/24 -j DROP"
    assert said(
        judge(with_first(candidate("v4"), rule), "v4", [GATE]), "198.18.7.7/32 does not reach 22/tcp: `%s`" % rule
    )


def test_a_rule_that_surely_lets_in_is_named_once() -> None:
    rules = (
        "-A INPUT -m set --match-set x src -j other",
        "-A INPUT -p tcp -m tcp --dport 22:23 -j other",
        "-A other -p tcp -j ACCEPT",
    )
    gate = GATE._replace(ports=(parse_ports("20-30/tcp"),))
    tables = with_first(candidate("v4", knock_firewall_ports=["20-30/tcp"]), *rules)
    assert said(judge(tables, "v4", [gate]), "a stranger reaches 22-23/tcp, by rule `-A other -p tcp -j ACCEPT`")


def test_a_network_that_is_banned_piece_by_piece_is_locked_out() -> None:
    bans = ("-A INPUT -s 198.18.0.16/29 -j DROP", "-A INPUT -s 198.18.0.24/29 -j DROP")
    assert said(
        judge(with_first(candidate("v4"), *bans), "v4", [GATE]), "the allowlisted 198.18.0.16/28 does not reach"
    )


def test_a_refusal_of_exactly_the_allowlisted_network_locks_it_out() -> None:
    rule = "-A INPUT -s 198.18.0.0/24 -j DROP"
    assert said(judge(with_first(candidate("v4"), rule), "v4", [GATE]), "the allowlisted 198.18.0.16/28 does not", rule)


def test_a_refusal_by_interface_is_remarked() -> None:
    rule = "-A INPUT -i eth1 -p tcp -m tcp --dport 22 --syn -j DROP"
    judgement = judge(with_first(candidate("v4"), rule), "v4", [GATE])
    assert judgement.problems == []
    assert "IPv4: `%s` of the filter table may refuse an admitted knocker at 22/tcp: " % rule in judgement.remarks[-1]


# --- what IPv6 needs -------------------------------------------------------------------------------------------------


def test_ipv6_needs_its_neighbours() -> None:
    tables = candidate("v6", CLOSED)
    problems = judge(lacking(tables, "-p ipv6-icmp"), "v6", [GATE]).problems
    assert len(problems) == 4
    assert problems[2] == (
        "IPv6: neighbour solicitations do not come in, and without them IPv6 does not work: "
        "the policy DROP of INPUT of the filter table decides."
    )
    assert said(judge(lacking(tables, "--icmpv6-type 2 "), "v6", [GATE]), "packet-too-big messages do not come in")


def test_a_host_that_wants_no_router_advertisements_may_say_so() -> None:
    rule = "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 134 -j DROP"
    judgement = judge(with_last(candidate("v6"), rule), "v6", [GATE])
    assert judgement.problems == []
    assert judgement.remarks == ["IPv6: router advertisements do not come in: `%s` of the filter table decides." % rule]


# --- what is spelled otherwise ---------------------------------------------------------------------------------------


def test_a_file_that_declares_no_built_in_chain_is_read_all_the_same() -> None:
    tables = parse("*filter\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n")
    assert said(
        judge(tables, "v4", [GATE]), "a stranger reaches 22/tcp, by rule `-A INPUT -p tcp --dport 22 -j ACCEPT`"
    )


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT --protocol tcp --destination-port 22 --jump DROP",
        "-A INPUT --source 0.0.0.0/0 --match tcp -p tcp --destination-port 22 --jump DROP",
        "-A INPUT -p 6 -m multiport --destination-ports 22 -g refuse",
        "-A INPUT -m mark --mark 0x0/0x8 -p tcp -j DROP",
        "-A INPUT -s 198.18.0.0/255.254.0.0 -p tcp -j DROP",
    ],
)
def test_a_refusal_is_understood_however_it_is_spelled(rule: str) -> None:
    problems = judge(with_first(candidate("v4"), rule, "-A refuse -j DROP"), "v4", [GATE]).problems
    by = "-A refuse -j DROP" if "-g refuse" in rule else rule
    assert [problem for problem in problems if "does not reach 22/tcp" in problem or "nobody" in problem], problems
    assert any("`%s` of the filter table decides." % by in problem for problem in problems)


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -m connmark ! --mark 0x1 -m mark --mark 0x0/0x8 -p tcp -j DROP",
        "-A INPUT -m set ! --match-set friends src -p tcp --dport 22 -j DROP",
        "-A INPUT -p tcp --dport ssh -j DROP",
        "-A INPUT -s bastion.example -j DROP",
        '-A INPUT -m comment --comment "\'" -j',
        "-A INPUT -m",
        "-A INPUT",
        "-A INPUT -p tcp ! --dport",
        "-A INPUT -j nowhere",
        "-A INPUT -j MARK",
        "-A INPUT -m mark --mark x -j ACCEPT",
    ],
)
def test_whatever_a_rule_says_there_is_a_judgement(rule: str) -> None:
    tables = with_first(candidate("v4"), rule, "-A refuse -j DROP")
    judgement = judge(tables, "v4", [GATE])
    assert all(
        sentence.startswith("IPv4: ") and sentence.endswith(".")
        for sentence in [*judgement.problems, *judgement.remarks]
    )


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        ("-A INPUT -j a", "-A a -p tcp -j b", "-A b -j a"),
        ("-A INPUT -j a", "-A a -g a"),
        ("-A INPUT -j a", "-A a -p udp -j INPUT"),
    ],
)
def test_chains_that_lead_into_each_other_are_named(rules: tuple[str, ...]) -> None:
    assert judge(with_first(candidate("v4"), *rules), "v4", [GATE]).problems == [
        "IPv4: `%s` of the filter table leads back to a chain that has led to it." % rules[-1]
    ]


def test_chains_that_many_lead_to_are_no_loop() -> None:
    rules = ["-A c%d -m set --match-set x%d src -j c%d" % (n, m, n + 1) for n in range(40) for m in range(2)]
    tables = with_last(candidate("v4"), "-A INPUT -j c0", *rules, "-A c40 -j RETURN")
    assert judge(tables, "v4", [GATE]) == Judgement([], [])


def test_a_normal_ruleset_is_judged_at_once() -> None:
    tables = candidate("v4", FAIL2BAN, knock_firewall_escape_port=2222)
    began = time.process_time()
    judge(tables, "v4", [GATE, ESCAPE])
    assert time.process_time() - began < 0.05


@pytest.mark.parametrize(
    "pattern",
    [
        "-A INPUT -s 203.%d.%d.9/32 -p tcp -m tcp --dport 22 -j DROP",
        "-A INPUT -s 203.%d.%d.9/32 -j ACCEPT",
        "-A INPUT -s 203.%d.%d.0/25 -p tcp -m set --match-set x src -j other",
        "-A INPUT -p tcp -m set --match-set x%d-%d src -j DROP",
        "-A INPUT -p udp -m udp --dport %d -m comment --comment %d -j ACCEPT",
    ],
)
def test_ten_thousand_foreign_rules_are_judged_in_bounded_time(pattern: str) -> None:
    rules = [pattern % (number // 250, number % 250) for number in range(10_000)]
    tables = with_first(candidate("v4"), "-A other -s 203.0.113.0/24 -j RETURN", *rules)
    began = time.process_time()
    judgement = judge(tables, "v4", [GATE])
    assert judgement.problems == []
    assert time.process_time() - began < 8


def test_what_has_too_many_ways_is_not_judged_and_says_so() -> None:
    # Each rule marks one more bit of ever other ports: no two sets of packets are the same
    gate = Gate("all", (parse_ports("1-65535"),), ("198.18.0.16/28",), 0)
    rules = [
        "-A INPUT -s 203.%d.0.0/255.255.0.0 -p tcp -m tcp --sport %d:65535 -j MARK --set-xmark 0x%x/0x%x"
        % (number % 200, number * 13 % 60000, 1 << number % 32, 1 << number % 32)
        for number in range(4000)
    ]
    began = time.process_time()
    judgement = judge(with_first(filter_of("-A INPUT -p tcp -j DROP"), *rules), "v4", [gate])
    assert time.process_time() - began < 8
    assert (
        "IPv4: not judged whether a stranger is kept from 1-65535/tcp: there are too many ways through the rules."
        in (judgement.remarks)
    )
    assert not [problem for problem in judgement.problems if "stranger" in problem]
