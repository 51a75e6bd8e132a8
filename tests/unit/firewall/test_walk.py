# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of packets end where each single packet ends, when one follows it rule by rule."""

from __future__ import annotations

import itertools
import re
from ipaddress import ip_address, ip_network
from typing import Callable, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.sesame.knock.plugins.module_utils._match import YES, Packet
from ansible_collections.sesame.knock.plugins.module_utils._rules import Table
from ansible_collections.sesame.knock.plugins.module_utils._spans import (
    EVERYWHERE,
    Spans,
    common,
    joined,
    size,
    without,
)
from ansible_collections.sesame.knock.plugins.module_utils._walk import Packets, Walk, base_chains

CHAINS = ("INPUT", "a", "b", "c")
SOURCES = ("10.0.0.0/8", "10.1.0.0/16", "10.1.1.1/32", "172.16.0.0/12")
ADDRESSES = tuple(int(ip_address(text)) for text in ("10.1.1.1", "10.1.1.2", "10.2.0.1", "172.16.0.1", "198.18.0.1"))
PORTS = (22, 23, 24, 30)
KIND = Packet("v4", "tcp", "NEW", ((22, 30),), "SYN")


class One(NamedTuple):
    source: int
    port: int
    mark: int


# What a rule asks, as text, and what a packet has to be: the plainest reading of it
def _comes_from(network: str) -> Callable[[One], bool]:
    return lambda packet: ip_address(packet.source) in ip_network(network)


def _comes_not_from(network: str) -> Callable[[One], bool]:
    return lambda packet: ip_address(packet.source) not in ip_network(network)


MATCHES: dict[str, Callable[[One], bool]] = {
    **{"-s " + network: _comes_from(network) for network in SOURCES},
    **{"! -s " + network: _comes_not_from(network) for network in SOURCES},
    "-p tcp -m tcp --dport 22": lambda p: p.port == 22,
    "-p tcp -m tcp --dport 23:24": lambda p: p.port in (23, 24),
    "-p tcp -m multiport ! --dports 22,30": lambda p: p.port not in (22, 30),
    "-p udp": lambda p: False,
    "-i lo": lambda p: False,
    "! -i lo": lambda p: True,
    "-m conntrack --ctstate NEW,RELATED": lambda p: True,
    "-m conntrack ! --ctstate NEW": lambda p: False,
    "-m mark --mark 0x1/0x1": lambda p: p.mark & 1 == 1,
    "-m mark ! --mark 0x2/0x3": lambda p: p.mark & 3 != 2,
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN": lambda p: True,
    '-m comment --comment "-j DROP"': lambda p: True,
}
MARKS = {
    "MARK --set-xmark 0x1/0x1": lambda mark: mark | 1,
    "MARK --set-xmark 0x0/0x1": lambda mark: mark & ~1,
    "MARK --xor-mark 0x3": lambda mark: mark ^ 3,
    "MARK --and-mark 0x2": lambda mark: mark & 2,
    "MARK --set-mark 0x2": lambda mark: 2,
}
UNKNOWN = "-m set --match-set x src"


@st.composite
def rules(draw: st.DrawFn) -> Table:
    """A few chains that lead only to later ones."""
    lines = []
    for index, chain in enumerate(CHAINS):
        for dummy in range(draw(st.integers(0, 5))):
            matches = draw(st.lists(st.sampled_from(sorted(MATCHES)), max_size=2, unique=True))
            matches += [UNKNOWN] * draw(st.booleans())
            later = ["-%s %s" % (how, name) for name in CHAINS[index + 1 :] for how in "jg"]
            verdicts = ["-j ACCEPT", "-j DROP", "-j RETURN", "-j LOG"] + later * 2
            if UNKNOWN not in matches:
                verdicts += ["-j " + mark for mark in MARKS]
            lines.append(" ".join(["-A", chain, *matches, draw(st.sampled_from(verdicts))]))
    return Table({**dict.fromkeys(CHAINS, "-"), "INPUT": draw(st.sampled_from(["ACCEPT", "DROP"]))}, lines)


def ends_of(table: Table, packet: One, unknown: tuple[bool, ...]) -> set[str]:
    """Where one packet can end, if each time a match that cannot be read is answered by any of these."""

    def walk(chain: str, mark: int, place: int) -> set[tuple[str, int]]:
        found = table.rules_of(chain)
        if place == len(found):
            return {("", mark)}
        rule = found[place]
        match, target = re.split(r" (?=-[jg] \w+(?: --\S+ \S+)?$)", rule[len("-A %s" % chain) :] or " ")
        answers = {True}
        if UNKNOWN in match:
            answers = set(unknown)
        for text, test in MATCHES.items():
            # `-s X` stands in `! -s X` too
            if re.search(r"(?<!!)(?:^|\s)%s(?=\s|$)" % re.escape(text), match) and not test(packet._replace(mark=mark)):
                answers = {False}
        ends: set[tuple[str, int]] = set()
        if False in answers:
            ends |= walk(chain, mark, place + 1)
        if True in answers:
            how, name = target.split(None, 1)
            if name in ("ACCEPT", "DROP"):
                ends.add((name, mark))
            elif name == "RETURN":
                ends.add(("", mark))
            elif name in CHAINS:
                for end, new in walk(name, mark, 0):
                    ends |= {(end, new)} if end else {("", new)} if how == "-g" else walk(chain, new, place + 1)
            else:
                ends |= walk(chain, MARKS[name](mark) if name in MARKS else mark, place + 1)
        return ends

    return {end or table.chains["INPUT"] for end, dummy in walk("INPUT", packet.mark, 0)}


@given(rules(), st.sampled_from([0, 1, 2, 3]))
def test_sets_of_packets_end_where_each_packet_ends(table: Table, mark: int) -> None:
    start = Packets(EVERYWHERE["v4"], KIND.ports, mark=mark)
    ways = Walk(base_chains({"filter": table}, "v4")).ways(KIND, start)
    assert ways.is_complete
    for source, port in itertools.product(ADDRESSES, PORTS):
        packet = One(source, port, mark)
        here = [
            (verdict, state.doubt)
            for verdict, states in (("ACCEPT", ways.accepted), ("DROP", ways.refused))
            for state in states
            if common(state.source, ((source, source),)) and common(state.dport, ((port, port),))
        ]
        assert {verdict for verdict, dummy in here} == ends_of(table, packet, (True, False))
        assert {verdict for verdict, doubt in here if doubt == YES} == ends_of(table, packet, (False,))


def _together(items: list[tuple[int, int]]) -> Spans:
    found: Spans = ()
    for first, length in items:
        found = joined(found, ((first, first + length),))
    return found


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=6).map(_together)


@given(spans, spans)
def test_spans_are_sets_of_numbers(left: Spans, right: Spans) -> None:
    def numbers(found: Spans) -> set[int]:
        assert list(found) == sorted(found)
        assert sum(last - first + 1 for first, last in found) == size(found)
        return {number for first, last in found for number in range(first, last + 1)}

    assert numbers(common(left, right)) == numbers(left) & numbers(right)
    assert numbers(without(left, right)) == numbers(left) - numbers(right)
    assert numbers(joined(left, right)) == numbers(left) | numbers(right)
