# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role's variables come to: rules, guard, defaults. The kernel's word on them is in tests/netns."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from .rendering import CHECKOUT, evaluate, host_with, render

ALLOW: dict[str, Any] = {"knock_firewall_allowlist": ["198.18.0.7", "198.18.4.0/24", "fd00:5E5A:1::/64"]}


def rules(text: str, chain: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A %s " % chain)]


@pytest.mark.parametrize(
    ("template", "mine", "other"),
    [("rules.v4.j2", "-s 198.18.4.0/24", "fd00"), ("rules.v6.j2", "-s fd00:5e5a:1::/64", "198.18")],
)
def test_each_family_has_its_own_allowlist_in_the_same_chain(template: str, mine: str, other: str) -> None:
    text = render(template, **ALLOW)
    assert "-A KNOCK-ADMIT %s -j RETURN\n" % mine in text
    assert other not in text


@pytest.mark.parametrize("template", ["rules.v4.j2", "rules.v6.j2"])
def test_what_passes_comes_before_what_refuses(template: str) -> None:
    verdicts = [line.partition(" -j ")[2].split()[0] for line in rules(render(template, **ALLOW), "KNOCK-ADMIT")]
    assert verdicts == sorted(verdicts, key=["RETURN", "DROP", "REJECT"].index)


@pytest.mark.parametrize("template", ["rules.v4.j2", "rules.v6.j2"])
def test_only_what_opens_a_connection_is_refused(template: str) -> None:
    refusals = [line for line in rules(render(template, **ALLOW), "KNOCK-ADMIT") if "-j REJECT" in line]
    assert refusals
    assert all("--tcp-flags FIN,SYN,RST,ACK SYN" in line or "--ctstate NEW" in line for line in refusals)


def test_our_jump_is_the_first_rule_also_above_kept_ones() -> None:
    kept = (
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"
    )
    text = render("rules.v4.j2", host_with(v4=kept), **ALLOW)
    assert rules(text, "INPUT") == ["-A INPUT -j KNOCK-MARK", "-A INPUT -j KNOCK", "-A INPUT -p tcp -j ACCEPT"]
    assert "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n" in text


def test_a_host_that_drops_gets_accept_silence_and_what_ipv6_needs() -> None:
    host = host_with(v6="*filter\n:INPUT DROP [0:0]\nCOMMIT\n")
    text = render("rules.v6.j2", host, **ALLOW)
    assert ":INPUT DROP [0:0]" in text
    assert "-A KNOCK -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT" in text
    assert "-A KNOCK-ADMIT -s fd00:5e5a:1::/64 -j ACCEPT" in text
    assert "REJECT" not in text


def test_the_way_out_knows_no_mark() -> None:
    text = render("rules.v4.j2", **ALLOW, knock_firewall_escape_port=2222, knock_firewall_escape_from=["198.18.9.9"])
    assert "-A KNOCK -p tcp -m tcp --dport 2222 -j KNOCK-ESCAPE" in text
    assert "-A KNOCK-ESCAPE -s 198.18.9.9/32 -j RETURN" in text
    assert not [line for line in rules(text, "KNOCK-ESCAPE") if "mark" in line or "198.18.4.0" in line]


DROP: dict[str, Any] = {
    **ALLOW,
    "knock_firewall_policy": "drop",
    "knock_firewall_open_ports": ["443/tcp", "60000-60010/udp"],
}


def seen(address: str, **variables: Any) -> dict[str, Any]:
    connection = {"stdout": "%s 50022 198.18.0.10 22" % address if address else ""}
    return {"knock_firewall_allowlist_controller": True, "__knock_firewall_connection": connection, **variables}


@pytest.mark.parametrize(
    ("variables", "allowed"),
    [
        (seen("198.18.9.9"), {"v4": ["198.18.9.9/32"], "v6": []}),
        (seen("fd00:5e5a::9", knock_firewall_allowlist=[]), {"v4": [], "v6": ["fd00:5e5a::9/128"]}),
        (seen("fe80::9%eth0"), {"v4": [], "v6": ["fe80::9/128"]}),
        (seen("198.18.4.9", **ALLOW), {"v4": ["198.18.0.7/32", "198.18.4.0/24"], "v6": ["fd00:5e5a:1::/64"]}),
        (seen("198.18.9.9", ansible_connection="local"), {"v4": [], "v6": []}),
        ({**seen("198.18.9.9", **ALLOW), "knock_firewall_allowlist_controller": False}, None),
    ],
    ids=["ipv4", "ipv6", "link-local", "already-there", "not-ssh", "not-wished"],
)
def test_the_controllers_own_address_is_added_where_that_is_wished(
    variables: dict[str, Any], allowed: dict[str, list[str]] | None
) -> None:
    listed = allowed or {"v4": ["198.18.0.7/32", "198.18.4.0/24"], "v6": ["fd00:5e5a:1::/64"]}
    assert evaluate("__knock_firewall_allow", **variables) == listed
    assert evaluate("__knock_firewall_escape_allow", **variables) == listed


@pytest.mark.parametrize(
    ("seen_as", "own"), [("127.0.0.1", "127.0.0.1"), ("198.18.77.77", "127.0.0.1"), ("fd00:5e5a::77", "")]
)
def test_a_nat_shows_by_an_address_that_is_not_ours(seen_as: str, own: str) -> None:
    connection = {"stdout": seen_as + " 1 2 3"}
    variables: dict[str, Any] = {"ansible_host": "127.0.0.1", "__knock_firewall_connection": connection}
    assert evaluate("__knock_firewall_own_address", **variables) == own


@pytest.mark.parametrize("template", ["rules.v4.j2", "rules.v6.j2"])
def test_a_whole_host_firewall_ends_with_a_drop_of_its_own(template: str) -> None:
    text = render(template, **DROP)
    assert rules(text, "KNOCK")[-1] == "-A KNOCK -j DROP"
    assert ":INPUT ACCEPT [0:0]" in text, "without our jump the host is open"
    assert "-A KNOCK -p udp -m udp --dport 60000:60010 -j RETURN" in text


@pytest.mark.parametrize("template", ["rules.v4.j2", "rules.v6.j2"])
def test_who_passes_a_gate_does_not_meet_the_drop_behind_it(template: str) -> None:
    entries = [line for line in rules(render(template, **DROP), "KNOCK") if "KNOCK-ADMIT" in line]
    assert entries == ["-A KNOCK -p tcp -m tcp --dport 22 -g KNOCK-ADMIT"]


def test_a_whole_host_firewall_refuses_strangers_in_silence() -> None:
    assert "REJECT" not in render("rules.v4.j2", **DROP)
    assert "refuse = drop" in render("guard.conf.j2", **DROP)


def test_open_ports_count_under_the_policy_drop_only() -> None:
    assert "443" not in render("rules.v4.j2", **{**DROP, "knock_firewall_policy": "accept"})


def test_the_gates_say_what_the_rules_do() -> None:
    allow = ["198.18.0.7/32", "198.18.4.0/24", "fd00:5e5a:1::/64"]
    protected = {"name": "protected", "ports": ["22/tcp"], "knock": True, "allow": allow}
    assert evaluate("__knock_firewall_gates", **ALLOW) == [protected]
    variables = {**DROP, "knock_firewall_escape_port": 2222, "knock_firewall_escape_from": ["198.18.9.9"]}
    assert evaluate("__knock_firewall_gates", **variables) == [
        protected,
        {"name": "escape", "ports": ["2222/tcp"], "knock": False, "allow": ["198.18.9.9/32"]},
        {
            "name": "open",
            "ports": ["443/tcp", "60000-60010/udp"],
            "knock": False,
            "allow": ["0.0.0.0/0", "::/0"],
        },
    ]


@pytest.mark.parametrize(
    ("others", "common"),
    [([22], ["20-30/tcp"]), (["22/udp"], []), (["31/tcp", "443/tcp"], ["443/tcp"]), (["1-65535/tcp"], None), ([], [])],
)
def test_ports_in_common_are_named(others: list[Any], common: list[str] | None) -> None:
    mine = ["20-30/tcp", "443/tcp"]
    assert evaluate("mine | sesame.knock.common_ports(others)", mine=mine, others=others) == (
        mine if common is None else common
    )


def test_every_protected_port_is_cleared_of_the_mark() -> None:
    text = render(
        "rules.v4.j2", **ALLOW, knock_firewall_ports=["22/tcp", "60000-60010/udp"], knock_firewall_mark="0x0800"
    )
    assert rules(text, "KNOCK-MARK") == [
        "-A KNOCK-MARK -p tcp -m tcp --dport 22 -j MARK --set-xmark 0x0/0x800",
        "-A KNOCK-MARK -p udp -m udp --dport 60000:60010 -j MARK --set-xmark 0x0/0x800",
    ]


def test_nftables_has_the_gates_of_iptables_for_both_families_in_one_table() -> None:
    text = render(
        "knock_firewall.nft.j2",
        **ALLOW,
        knock_firewall_ports=["22/tcp", "60000-60010/udp"],
        knock_firewall_escape_port=2222,
        knock_firewall_escape_from=["198.18.9.9"],
        knock_firewall_mark="0x0800",
    )
    admit, escape = (text.partition("chain %s {" % name)[2].partition("}\n")[0] for name in ("admit", "escape"))
    for network in ("ip saddr 198.18.0.7/32", "ip saddr 198.18.4.0/24", "ip6 saddr fd00:5e5a:1::/64"):
        assert "\t%s accept\n" % network in admit
        assert network not in escape
    assert "meta mark & 0x800 == 0x800 accept" in admit
    assert "mark" not in escape
    assert text.count("meta mark set meta mark & 0xfffff7ff\n") == 2
    assert "\ttcp dport 2222 goto escape\n" in text


def test_nftables_passes_before_it_refuses_and_refuses_only_what_opens_a_connection() -> None:
    text = render("knock_firewall.nft.j2", **ALLOW, knock_firewall_refuse="drop")
    verdicts = [line.split()[-1] for line in text.partition("chain admit {")[2].splitlines() if "\t\t" in line]
    verdicts = [verdict for verdict in verdicts if verdict in ("accept", "drop")]
    assert verdicts == sorted(verdicts)
    assert "reject" not in text
    refusals = [line for line in text.splitlines() if line.endswith(" drop") and "invalid" not in line]
    assert refusals
    assert all("== syn " in line or "ct state new " in line for line in refusals)


def test_nftables_is_as_silent_as_the_chains_of_others() -> None:
    host = {**host_with(), "backend": "nftables", "nftables": {"tools": True, "refuses": {"v4": "", "v6": "drop"}}}
    assert "reject" not in render("knock_firewall.nft.j2", host, **ALLOW)
    assert "REJECT" in render("rules.v4.j2", host, **ALLOW, knock_firewall_backend="iptables")


def test_published_ports_are_nobodys_matter_unless_asked_for() -> None:
    text = render("rules.v4.j2", **ALLOW)
    assert "ctorigdstport" not in text
    assert "KNOCK-PUBLISHED" not in text


def test_published_ports_are_known_by_the_port_that_the_connection_was_made_to() -> None:
    text = render(
        "rules.v6.j2",
        **ALLOW,
        knock_firewall_published="protect",
        knock_firewall_ports=["22/tcp", "60000-60010/udp"],
    )
    sent = "-p udp -m conntrack --ctstate DNAT --ctorigdstport 60000:60010"
    assert "-A KNOCK-FORWARD %s -j MARK --set-xmark 0x0/0x1000\n" % sent in text
    assert "-A KNOCK-MARK %s -j MARK --set-xmark 0x0/0x1000\n" % sent in text
    assert "-A KNOCK %s -j KNOCK-ADMIT\n" % sent in text
    verdicts = [line.partition(" -j ")[2] for line in rules(text, "KNOCK-PUBLISHED")]
    assert verdicts == ["RETURN"] * 4 + ["DROP"] * 2
    assert "-A KNOCK-PUBLISHED -s fd00:5e5a:1::/64 -j RETURN\n" in text
    assert rules(text, "POSTROUTING") == ["-A POSTROUTING -j KNOCK-PUBLISHED"]


@pytest.mark.parametrize(("asked", "is_on"), [("stop", False), ("protect", True)])
def test_the_daemon_admits_to_published_ports_where_they_are_protected(asked: str, is_on: bool) -> None:
    defaults = yaml.safe_load((CHECKOUT / "roles" / "knockd" / "defaults" / "main.yml").read_text())
    expression = defaults["knockd_published"].strip("{} ")
    assert evaluate(expression, knock_firewall_published=asked) is is_on
    assert evaluate(expression.replace("knock_firewall_published", "nothing_of_that_name")) is False


def test_the_guard_says_what_the_rules_say() -> None:
    text = render("guard.conf.j2", **ALLOW, knock_firewall_ports=[22], knock_firewall_escape_port=2222)
    assert "[protected]\n    ports  = 22/tcp\n    allow  = 198.18.0.7/32, 198.18.4.0/24, fd00:5e5a:1::/64\n" in text
    assert text.count("refuse = reset") == 2
    assert text.endswith("knock  = no\n")


@pytest.mark.parametrize(
    ("variables", "is_on"),
    [
        ({}, True),
        ({"knockd_preset": "open_close_commands"}, False),
        ({"knockd_preset": "start_stop_commands"}, False),
        ({"knockd_doors": [{"name": "web", "start_command": "true"}]}, True),
        ({"knockd_doors": [{"name": "ssh", "start_command": "true"}]}, False),
        ({"knockd_preset": "none", "knockd_doors": [{"name": "a", "open_ports": ["22/tcp"]}]}, True),
        ({"knockd_preset": "none", "knockd_doors": [{"name": "a", "start_command": "true"}]}, False),
    ],
)
def test_the_guard_is_on_where_ssh_is_behind_a_native_door(variables: dict[str, Any], is_on: bool) -> None:
    assert evaluate("knock_firewall_guard | bool", **variables) is is_on


@pytest.mark.parametrize(
    ("port", "arrives_at", "sshd", "escape", "front"),
    [
        (None, 22, [22], 0, 22),
        (2222, 2222, [2222], 0, 2222),
        (2222, 22, [22], 0, 2222),
        (2222, 2222, [22, 2222], 2222, 22),
        (None, None, [22], 0, 22),
        (None, None, [2022], 0, 2022),
        (22, 22, [], 0, 22),
    ],
    ids=["default", "another", "forwarded", "by-the-way-out", "no-ssh", "no-ssh-another", "no-sshd-known"],
)
def test_the_proof_knocks_at_a_protected_port(
    port: int | None, arrives_at: int | None, sshd: list[int], escape: int, front: int
) -> None:
    found = ["%d/tcp" % number for number in sshd or [22] if number != escape]
    host = {**host_with(), "sshd_ports": sshd, "sshd_open": [], "escape_port": escape, "ports": found}
    variables: dict[str, Any] = {"ansible_port": port} if port else {}
    variables["__knock_firewall_connection"] = {
        "stdout": "198.18.0.9 4711 198.18.0.1 %d" % arrives_at if arrives_at else ""
    }
    assert int(evaluate("__knock_firewall_front_port", host, **variables)) == front


@pytest.mark.parametrize(
    ("wanted", "others", "beyond"),
    [
        (["22/tcp"], ["22/tcp"], []),
        (["22/tcp", "2222/tcp"], ["22/tcp", "2222/udp"], ["2222/tcp"]),
        (["60000-60010/udp"], ["60006-60020/udp", "60000-60005/udp"], []),
        (["60000-60010/udp"], ["60000-60004/udp", "60006-60020/udp"], ["60000-60010/udp"]),
        (["20-25/tcp"], ["1-65535/tcp", "21/tcp"], []),
        (["22"], [], ["22/tcp"]),
    ],
)
def test_ports_beyond_others_are_those_that_these_do_not_cover_whole(
    wanted: list[str], others: list[str], beyond: list[str]
) -> None:
    assert evaluate("wanted | sesame.knock.ports_beyond(others)", wanted=wanted, others=others) == beyond


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("198.18.4.7/24", "write 198.18.4.0/24 for the network, or 198.18.4.7 for the one address"),
        ("fd00:5e5a::1/64", "write fd00:5e5a::/64 for the network, or fd00:5e5a::1 for the one address"),
        ("office.example.org", "is not an IPv4 or IPv6 address or network"),
        ("0.0.0.0/0", "is everybody"),
        ("::/0", "is everybody"),
        ("::ffff:198.18.0.7", "write 198.18.0.7"),
        ("198.18.0.7-9", "is not an IPv4 or IPv6"),
    ],
)
def test_a_network_that_cannot_be_meant_is_named_with_the_right_spelling(item: str, says: str) -> None:
    (problem,) = evaluate(
        "networks | sesame.knock.network_problems('knock_firewall_allowlist')", networks=["198.18.0.1", item]
    )
    assert problem.startswith("knock_firewall_allowlist: '%s'" % item)
    assert says in problem


def test_networks_are_sorted_by_family_and_named_once() -> None:
    both = evaluate("['198.18.0.7', '198.18.0.7/32', 'FD00::0/64'] | sesame.knock.networks")
    assert both == {"v4": ["198.18.0.7/32"], "v6": ["fd00::/64"]}


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (["22/tcp", 443], ["22/tcp", 443]),
        ("22/tcp", ["22/tcp"]),
        (" 22/tcp , 443/tcp,", ["22/tcp", "443/tcp"]),
        (22, [22]),
        ("", []),
        (None, []),
        ({"a": 1}, [{"a": 1}]),
    ],
)
def test_a_string_with_commas_is_a_list(value: Any, items: list[Any]) -> None:
    assert evaluate("value | sesame.knock.as_list", value=value) == items


def test_who_writes_a_string_gets_the_rules_of_a_list() -> None:
    as_lists: dict[str, Any] = {
        "knock_firewall_allowlist": ["198.18.4.0/24", "fd00:5e5a:1::/64"],
        "knock_firewall_ports": ["22/tcp", 80],
    }
    as_strings: dict[str, Any] = {name: ",".join(map(str, value)) for name, value in as_lists.items()}
    closed: dict[str, Any] = {"knock_firewall_policy": "drop"}
    for template in ("rules.v4.j2", "rules.v6.j2", "knock_firewall.nft.j2"):
        wanted = render(template, **closed, knock_firewall_open_ports=["443/tcp", "25/tcp"], **as_lists)
        assert render(template, **closed, knock_firewall_open_ports="443/tcp, 25/tcp", **as_strings) == wanted


def test_what_is_no_list_is_one_sentence_and_the_list_to_write() -> None:
    for value in ("[198.18.4.7, ::5]", "198.18.4.7 ::5", "198.18.4.7;::5", "{'198.18.4.7', '::5'}"):
        problems = evaluate("value | sesame.knock.network_problems('knock_firewall_allowlist')", value=value)
        assert len(problems) == 2
        assert all("knock_firewall_allowlist" in problem for problem in problems)
        assert problems[1].endswith('write a list, ["198.18.4.7", "::5"]')


@pytest.mark.parametrize(
    ("address", "inside"), [("198.18.4.200", True), ("198.18.5.1", False), ("fd00:5e5a:1::9", True)]
)
def test_whether_the_controller_is_on_the_allowlist(address: str, inside: bool) -> None:
    assert evaluate("knock_firewall_allowlist | sesame.knock.covers('%s')" % address, **ALLOW) is inside
