# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where our reading of a ruleset says that a packet ends is where the kernel lets it end, with both iptables."""

from __future__ import annotations

import random
import subprocess

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._base_chains import refused_by
from ansible_collections.sesame.knock.plugins.module_utils._match import YES, Packet
from ansible_collections.sesame.knock.plugins.module_utils._rules import parse, parse_ports, refuses
from ansible_collections.sesame.knock.plugins.module_utils._spans import of_network
from ansible_collections.sesame.knock.plugins.module_utils._walk import Packets, Walk, base_chains

from ..lab import CLIENT, CLIENT6, SERVER, SERVER6, STRANGER, STRANGER6
from .firewall_host import BOTH_IPTABLES, FirewallHost

pytestmark = pytest.mark.parametrize("host", BOTH_IPTABLES, indirect=True)

RULESETS = 25
MARK = 0x1000
COMMON = (
    "-p tcp -m tcp --dport 22",
    "-p tcp -m tcp ! --dport 22",
    "-p tcp -m tcp --dport 20:30",
    "-p tcp -m multiport --dports 22,80",
    "-p tcp -m multiport ! --dports 1:1024",
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
    "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN",
    "-p tcp -m tcp --sport 1024:65535",
    "-p udp",
    "! -p tcp",
    "-i lo",
    "! -i lo",
    "-i +",
    "-m conntrack --ctstate NEW",
    "-m conntrack ! --ctstate RELATED,ESTABLISHED",
    "-m state --state INVALID,UNTRACKED",
    "-m mark --mark 0x1000/0x1000",
    "-m mark ! --mark 0x1/0x3",
    "-m mark --mark 0x2",
    "-m addrtype --dst-type LOCAL",
    "-m addrtype --dst-type MULTICAST",
    '-m comment --comment "it is -j DROP"',
)
SOURCES = {
    "v4": ("198.18.0.1/32", "198.18.0.66/32", "198.18.0.64/26", "198.18.0.0/24", "127.0.0.0/8", "10.0.0.0/8"),
    "v6": ("fd00:5e5a::1/128", "fd00:5e5a::66/128", "fd00:5e5a::40/122", "fd00:5e5a::/64", "::1/128", "2001:db8::/32"),
}
RANGES = {"v4": "198.18.0.60-198.18.0.70", "v6": "fd00:5e5a::60-fd00:5e5a::70"}
MANY = {"v4": "224.0.0.0/4", "v6": "ff00::/8"}
MARKS = ("--set-xmark 0x1000/0x1000", "--set-xmark 0x0/0x1000", "--xor-mark 0x3", "--and-mark 0x1001", "--or-mark 0x2")


def some_rules(chance: random.Random, family: str) -> str:
    """Two tables of rules whose text says all about them."""
    matches = list(COMMON)
    for source in SOURCES[family]:
        matches += ["-s " + source, "! -s " + source]
    matches += ["-m iprange --src-range " + RANGES[family], "-m iprange ! --src-range " + RANGES[family]]
    matches += ["-d " + MANY[family], "! -d " + MANY[family]]
    refusal = "REJECT --reject-with tcp-reset"
    chains = ("INPUT", "one", "two", "three")
    lines = []
    for table in ("mangle", "filter"):
        lines += [
            "*" + table,
            ":INPUT %s [0:0]" % chance.choice(["ACCEPT", "ACCEPT", "DROP"] * (table == "filter") or ["ACCEPT"]),
        ]
        lines += [":%s - [0:0]" % chain for chain in chains[1:]]
        # What the host answers itself, what comes after the first packet, and how neighbours are found
        lines.append("-A INPUT -i lo -p tcp -m tcp --sport 22 -j ACCEPT")
        lines.append("-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
        lines += ["-A INPUT -p ipv6-icmp -j ACCEPT"] * (family == "v6")
        for index, chain in enumerate(chains):
            for dummy in range(chance.randrange(2, 6)):
                targets = ["-j ACCEPT", "-j RETURN", "-j NFLOG --nflog-group 1"]
                targets += ["-%s %s" % (how, later) for later in chains[index + 1 :] for how in "jjg"]
                targets += ["-j MARK " + mark for mark in MARKS]
                match = chance.choice(matches)
                if table == "filter" and "-p" not in match.split():
                    match, targets = "-p tcp " + match, targets + ["-j " + refusal] * 4
                lines.append("-A %s %s %s" % (chain, match, chance.choice(targets)))
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_packet_ends_where_we_say(host: FirewallHost, family: str) -> None:
    command = {"v4": "iptables", "v6": "ip6tables"}[family]
    server, client, stranger, home, bits = {
        "v4": (SERVER, CLIENT, STRANGER, "127.0.0.1", 32),
        "v6": (SERVER6, CLIENT6, STRANGER6, "::1", 128),
    }[family]
    host.mark(stranger)  # after mangle, as the daemon does
    chance = random.Random(22)
    ends = {True: 0, False: 0}
    for dummy in range(RULESETS):
        host.run(command + "-restore", text=some_rules(chance, family))
        saved = host.run(command + "-save")
        walk = Walk(base_chains(parse(saved), family))
        for source in (client, stranger, home):
            kind = Packet(family, "tcp", "NEW", ((22, 22),), "SYN", "lo" if source == home else "")
            start = Packets(of_network("%s/%d" % (source, bits)), kind.ports, ((1024, 65535),))
            ways = walk.ways(kind, start, MARK if source == stranger else 0)
            assert [state.doubt for state in ways.accepted + ways.refused] == [YES], saved
            if source == home:
                reach = "exec 3<>/dev/tcp/%s/22" % home
                is_open = not subprocess.run(host.command("timeout", "1", "bash", "-c", reach), stderr=-3).returncode
            else:
                is_open = host.lab.is_open(server, source=source)
            assert is_open == bool(ways.accepted), "%s\n%s %s" % (saved, source, ways)
            ends[is_open] += 1
    assert min(ends.values()) > RULESETS / 2, "rules that accept, and rules that refuse"


# --- RETURN in a built-in chain is the policy ------------------------------------------------------------------------

POLICIES = ("ACCEPT", "DROP")


def reaches(host: FirewallHost) -> list[bool]:
    return [host.lab.is_open(SERVER, source=source) for source in (CLIENT, STRANGER)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "above",
    [
        "-I INPUT -p tcp --dport 22 -j RETURN",
        "-I INPUT -j RETURN",
        "-N other; COMMAND -I INPUT -p tcp --dport 22 -g other",
        "-N other; COMMAND -I INPUT -p tcp -g other; COMMAND -A other -p tcp --dport 22 -j RETURN",
    ],
)
def test_what_returns_above_our_place_comes_after_us(host: FirewallHost, above: str, policy: str) -> None:
    host.apply(rehearse=True, knock_firewall_allowlist=[CLIENT])
    host.confirm()
    host.sh("iptables " + above.replace("COMMAND", "iptables"))
    host.sh("iptables -P INPUT " + policy)
    assert reaches(host) == [policy == "ACCEPT"] * 2, "our chain is not asked"
    answer = host.apply(rehearse=True, knock_firewall_allowlist=[CLIENT])
    assert not answer.get("failed"), answer
    assert reaches(host) == [True, False]
    host.confirm()
    assert not host.apply(knock_firewall_allowlist=[CLIENT])["changed"]


def test_what_returns_to_a_chain_of_others_stays_above_us(host: FirewallHost) -> None:
    host.apply(knock_firewall_allowlist=[CLIENT])
    host.confirm()
    host.sh("iptables -N f2b; iptables -A f2b -s 198.18.0.99 -j DROP; iptables -A f2b -j RETURN")
    host.sh("iptables -I INPUT -j f2b")
    assert not host.apply(knock_firewall_allowlist=[CLIENT])["changed"]
    assert reaches(host) == [True, False]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "rules",
    [
        "-A INPUT -j RETURN; -A INPUT -j DROP",
        "-A INPUT -j one; -A one -j RETURN; -A one -j DROP; -A INPUT -j DROP",
        "-A INPUT -j one; -A one -j ACCEPT; -A INPUT -j DROP",
        "-A INPUT -g one; -A one -j two; -A two -j RETURN; -A INPUT -j ACCEPT",
        f"-A INPUT -s {CLIENT} -j RETURN; -A INPUT -p tcp --dport 22 -j DROP",
        f"-A INPUT -s {CLIENT} -j RETURN; -A INPUT -p tcp --dport 22 -j ACCEPT",
        f"-A INPUT -p tcp -g one; -A one -s {CLIENT} -j ACCEPT; -A INPUT -j ACCEPT",
        f"-A INPUT -p tcp -j one; -A one -s {CLIENT} -j RETURN; -A one -j DROP; -A INPUT -p tcp --dport 22 -j ACCEPT",
    ],
)
def test_who_is_refused_where_rules_return_is_who_we_say(host: FirewallHost, rules: str, policy: str) -> None:
    host.sh("iptables -N one; iptables -N two; iptables -P INPUT " + policy)
    host.sh("".join("iptables %s\n" % rule for rule in rules.split("; ")))
    is_open = reaches(host)
    table = parse(host.run("iptables-save"))["filter"]
    assert refused_by(table, [parse_ports(22)]) == ([] if any(is_open) else ["22/tcp"])
    if CLIENT not in rules and "22" not in rules:
        assert bool(refuses(table)) == (not any(is_open))
