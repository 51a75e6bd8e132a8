# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where our reading of base chains of nftables says that a packet ends is where the kernel lets it end."""

from __future__ import annotations

import random
import re

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._base_chains import base_chains
from ansible_collections.sesame.knock.plugins.module_utils._match import YES, Packet
from ansible_collections.sesame.knock.plugins.module_utils._native_rules import Texts, native_chains
from ansible_collections.sesame.knock.plugins.module_utils._nftables import WITH_HANDLES, read_with_handles, refuses
from ansible_collections.sesame.knock.plugins.module_utils._rules import parse_ports
from ansible_collections.sesame.knock.plugins.module_utils._spans import of_network
from ansible_collections.sesame.knock.plugins.module_utils._walk import Packets, Walk

from ..lab import CLIENT, CLIENT6, SERVER, SERVER6, STRANGER, STRANGER6
from .firewall_host import FirewallHost

pytestmark = pytest.mark.parametrize("host", ["native"], indirect=True)

RULESETS = 40
MARK = 0x1000
MATCHES = (
    *(
        "",
        "counter",
        'log prefix "it drops"',
        'iif "lo"',
        'iif != "lo"',
        'iifname != { "lo" }',
        "udp dport 22",
    ),
    *("tcp dport 22", "tcp dport != 22", "tcp dport 20-30", "tcp dport { 22, 80-90 }", "tcp dport != { 1-1024, 9999 }"),
    *("tcp dport > 1023", "tcp dport <= 22", "th dport 22", "tcp sport 1024-65535", "meta l4proto { udp, icmp }"),
    *("meta l4proto tcp", "meta l4proto != tcp", "tcp flags syn", "tcp flags ack", "tcp flags & (syn | ack) == syn"),
    *("tcp flags & (fin | syn | rst | ack) != syn", "ct state new", "ct state { established, new }", "ct state != new"),
    *("ct state established,related", "ct state invalid", "meta mark & 0x1000 == 0x1000", "meta mark & 0x3 != 0x1"),
    *(
        "meta mark 0x2",
        "meta mark != { 0x0, 0x1000 }",
        "meta nfproto ipv4",
        "meta nfproto ipv6",
        "fib daddr type local",
    ),
    *(
        "ip saddr 198.18.0.1",
        "ip saddr != 198.18.0.1",
        "ip saddr 198.18.0.64/26",
        "ip saddr { 198.18.0.66, 10.0.0.0/8 }",
    ),
    *(
        "ip saddr 198.18.0.60-198.18.0.70",
        "ip saddr != { 198.18.0.0/26, 127.0.0.1 }",
        "ip saddr @some",
        "ip saddr != @some",
    ),
    *(
        "ip6 saddr fd00:5e5a::1",
        "ip6 saddr != fd00:5e5a::/122",
        "ip6 saddr { fd00:5e5a::66, ::1 }",
        "ip6 daddr ff00::/8",
    ),
    *("ip protocol tcp", "ip6 nexthdr tcp", "ip daddr != 224.0.0.0/4"),
)
MORE = ("", "counter", "ct state new", 'iif != "lo"', "meta mark & 0x1 == 0x0")
"""What can stand in a rule with any of these."""
MARKS = tuple(
    "meta mark set " + value for value in ("meta mark | 0x1000", "meta mark & 0xffffefff", "0x2", "meta mark ^ 0x3")
)
MAPS = (
    "ct state vmap { new : jump LATER, invalid : drop }",
    "tcp dport vmap { 22 : jump LATER, 80-90 : drop }",
    "tcp dport vmap { 1-1024 : goto LATER }",
)


def some_rules(chance: random.Random) -> str:
    """Two tables of rules whose text says all about them."""
    lines = ["flush ruleset"]
    for table, priority in (("one", -150), ("two", chance.choice([0, 10]))):
        chains = ("in", "a", "b", "c")
        lines.append("table inet %s {" % table)
        lines.append("set some { type ipv4_addr; flags interval; elements = { 198.18.0.0/28, 198.18.0.66 } }")
        for index in reversed(range(len(chains))):
            lines.append("chain %s {" % chains[index])
            if not index:
                policy = chance.choice(["accept", "accept", "drop"]) if table == "two" else "accept"
                lines.append("type filter hook input priority %d; policy %s;" % (priority, policy))
                # What the host answers itself, what comes after the first packet, and how neighbours are found
                lines.append('iif "lo" tcp sport 22 accept\nct state established accept\nmeta l4proto ipv6-icmp accept')
            later = chains[index + 1 :]
            for dummy in range(chance.randrange(2, 6)):
                verdicts = ["accept", "return", "continue", *MARKS, *(how + name for name in later for how in JUMPS)]
                if chance.random() < 0.15 and later:
                    lines.append(chance.choice(MAPS).replace("LATER", chance.choice(later)))
                    continue
                match = "%s %s" % (chance.choice(MATCHES), chance.choice(MORE))
                # nft 1.0.6 lists no `meta nfproto` that stands before `reject`
                if table == "two" and not re.search("udp|icmp|protocol|nexthdr|nfproto", match):
                    match, verdicts = match + " meta l4proto tcp", verdicts + ["reject with tcp reset"] * 4
                lines.append("%s %s" % (match, chance.choice(verdicts)))
            lines.append("}")
        lines.append("}")
    return "\n".join(lines) + "\n"


JUMPS = ("jump ", "jump ", "goto ")


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_packet_ends_where_we_say(host: FirewallHost, family: str) -> None:
    server, client, stranger, bits = {
        "v4": (SERVER, CLIENT, STRANGER, 32),
        "v6": (SERVER6, CLIENT6, STRANGER6, 128),
    }[family]
    chance = random.Random(22)
    ends = {True: 0, False: 0}
    while sum(ends.values()) < 2 * RULESETS:
        rules = some_rules(chance)
        host.run("nft", "-f", "-", text=rules)
        listing, text = read_with_handles(host.run("sh", "-c", WITH_HANDLES, "sh"))
        chains = native_chains(listing, Texts.of(text), family, main="inet two")
        walk = Walk([chain._replace(is_main=chain.table == "table inet two") for chain in chains])
        host.mark(stranger)  # as the daemon does
        for source in (client, stranger):
            kind = Packet(family, "tcp", "NEW", ((22, 22),), "SYN")
            start = Packets(of_network("%s/%d" % (source, bits)), kind.ports, ((1024, 65535),))
            ways = walk.ways(kind, start, MARK if source == stranger else 0)
            assert [state.doubt for state in ways.accepted + ways.refused] == [YES], (text, ways)
            is_open = host.lab.is_open(server, source=source)
            assert is_open == bool(ways.accepted), "%s\n%s %s" % (text, source, ways)
            ends[is_open] += 1
    assert min(ends.values()) > RULESETS / 4, "rules that accept, and rules that refuse"


@pytest.mark.parametrize("policy", ["accept", "drop"])
@pytest.mark.parametrize(
    ("rules", "one"),
    [
        ("return; drop", ""),
        ("jump one; accept", "return; drop"),
        ("goto one; accept", ""),
        ("tcp dport 22 return; drop", ""),
        (f"ip saddr {CLIENT} return; tcp dport 22 drop", ""),
        (f"ip saddr {CLIENT} return; tcp dport 22 accept", ""),
        ("tcp dport 22 goto one; accept", f"ip saddr {CLIENT} accept"),
        ("tcp dport 22 jump one; tcp dport 22 accept", f"ip saddr {CLIENT} return; drop"),
        ("tcp dport vmap { 22 : return }; drop", ""),
        ("tcp dport vmap { 22 : goto one }; drop", f"ip saddr {CLIENT} accept"),
    ],
)
def test_what_returns_in_a_base_chain_gets_its_policy(host: FirewallHost, rules: str, one: str, policy: str) -> None:
    text = "table inet mine { chain one {\n%s\n}\nchain input { type filter hook input priority 0; policy %s;\n%s\n}; }"
    host.run("nft", "-f", "-", text=text % (one.replace("; ", "\n"), policy, rules.replace("; ", "\n")))
    is_open = [host.lab.is_open(SERVER, source=source) for source in (CLIENT, STRANGER)]
    listing, text = read_with_handles(host.run("sh", "-c", WITH_HANDLES, "sh"))
    (chain,) = base_chains(listing, [parse_ports(22)])
    assert chain.refuses == ([] if any(is_open) else ["22/tcp"])
    if "22" not in rules:
        assert bool(refuses(listing, "ip")) == (not any(is_open))
    walk = Walk(native_chains(listing, Texts.of(text), "v4", main="inet mine"))
    for source, is_let_in in zip((CLIENT, STRANGER), is_open):
        start = Packets(of_network(source), ((22, 22),), ((1024, 65535),))
        assert bool(walk.ways(Packet("v4", "tcp", "NEW", ((22, 22),), "SYN"), start).accepted) == is_let_in
