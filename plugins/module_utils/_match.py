# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one rule of iptables-save matches, in three values: yes, no, and what cannot be known from its text.

Addresses, ports and marks are sets that the walk cuts; all else is one answer for a whole kind of packets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Callable, NamedTuple

from ._rules import words_of
from ._spans import EVERYWHERE, PORTS, Spans, common, joined, of_network, without

NO, YES, LIKELY, UNLIKELY = -1, 0, 1, 2
"""Likely and unlikely are both unknown. Most packets pass a rate limit or come through the interface that is named;
few are in a set that we cannot read. The worst answer of a rule's tests is the rule's, unless one says no."""

FLAGS = ("SYN", "ACK", "FIN", "RST", "URG", "PSH")
_LIKELY = ("limit", "hashlimit", "physdev", "pkttype", "time", "length", "ttl", "hl")
_RARE_OPTIONS = ("--hashlimit-above",)
_NUMBERS = {"0": "all", "1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp"}
_ICMPV6 = {
    "packet-too-big": "2",
    "router-advertisement": "134",
    "neighbour-solicitation": "135",
    "neighbor-solicitation": "135",
    "neighbour-advertisement": "136",
    "neighbor-advertisement": "136",
}


def _destinations(family: str, *networks: str) -> Spans:
    possible = EVERYWHERE[family]
    for network in networks:
        possible = without(possible, of_network(network))
    return possible


_TO_MANY = ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8")
_TO_ITSELF = ("127.0.0.0/8", "::1/128")
_DESTINATIONS = {
    # No connection is made to many at once; no packet from outside is sent to what is the host's alone
    (family, protocol, interface): _destinations(
        family,
        *[
            network
            for network in _TO_MANY * (protocol == "tcp") + _TO_ITSELF * (interface != "lo")
            if (":" in network) == (family == "v6")
        ],
    )
    for family in EVERYWHERE
    for protocol in ("tcp", "udp", "ipv6-icmp")
    for interface in ("", "lo")
}


class Packet(NamedTuple):
    """What is the same for all packets of one kind."""

    family: str
    """`v4` or `v6`."""
    protocol: str
    state: str
    """As conntrack calls it."""
    ports: Spans = PORTS
    flags: str = ""
    """The TCP flag that is set. PSH and URG may be too: whoever sends a packet chooses them."""
    interface: str = ""
    """`lo`, or empty for any other."""
    icmp_type: int = -1
    destinations: Spans = ()
    """Where they go, if not to any address that the host might have."""


Test = Callable[[Packet], int]


@dataclass
class Rule:
    """A rule, read once. Sets are None where the rule does not ask."""

    text: str
    chain: str
    family: str
    place: str = ""
    """Where it is, in words, if its text does not say so."""
    target: str = ""
    is_goto: bool = False
    arguments: list[str] = field(default_factory=list)
    """What the target is told."""
    source: Spans | None = None
    names_source: bool = False
    """Whether it asks for these sources, and not for all but some."""
    sport: Spans | None = None
    dport: Spans | None = None
    marks: list[tuple[int, int, bool]] = field(default_factory=list)
    """Value, mask, and whether it is negated."""
    tests: list[Test] = field(default_factory=list)

    @property
    def asks(self) -> bool:
        """Whether there are packets that it does not match."""
        return self.text != "return" and self.text.split()[2:] != ["-j", "RETURN"]

    def judge(self, packet: Packet) -> int:
        worst = YES
        for test in self.tests:
            answer = test(packet)
            if answer == NO:
                return NO
            worst = max(worst, answer)
        return worst


def match_mark(mark: int, known: int, wanted: tuple[int, int, bool]) -> int:
    """Whether a mark, of which only some bits are known, is the wanted one."""
    value, mask, is_negated = wanted
    if (mark ^ value) & mask & known or value & ~mask:
        return YES if is_negated else NO
    if mask & ~known:
        return UNLIKELY
    return NO if is_negated else YES


def new_mark(rule: Rule, mark: int, known: int) -> tuple[int, int]:
    """The mark, and its bits that are known, after a MARK or CONNMARK."""
    everything = 0xFFFFFFFF
    options = rule.arguments
    try:
        if rule.target == "MARK":
            value, mask = _value_and_mask(options[1])
            if options[0] == "--set-xmark":
                return (mark & ~mask) ^ value, known | mask
            if options[0] == "--set-mark":
                return (mark & ~mask) | value, known | mask | value
            if options[0] == "--and-mark":
                return mark & value, known | (~value & everything)
            if options[0] == "--or-mark":
                return mark | value, known | value
            if options[0] == "--xor-mark":
                return mark ^ value, known
        elif "--restore-mark" not in options:
            return mark, known
        elif "--nfmask" in options and "--ctmask" in options:
            masks = [int(options[options.index(name) + 1], 0) for name in ("--nfmask", "--ctmask")]
            return mark, known & ~(masks[0] | masks[1])
        elif "--mask" in options:
            return mark, known & ~int(options[options.index("--mask") + 1], 0)
    except (ValueError, IndexError):
        pass
    return mark, 0


def _value_and_mask(text: str) -> tuple[int, int]:
    value, dummy, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if mask else 0xFFFFFFFF


# --- reading a rule --------------------------------------------------------------------------------------------------


def read(text: str, family: str) -> Rule:
    words = words_of(text)
    rule = Rule(text, words[1], family)
    module, is_negated, level = "", False, YES
    protocol = ""
    index = 2
    while index < len(words):
        word = words[index]
        index += 1
        if word == "!":
            is_negated = True
            continue
        if word in ("-j", "--jump", "-g", "--goto"):
            rule.target = words[index] if index < len(words) else ""
            rule.is_goto = word in ("-g", "--goto")
            rule.arguments = words[index + 1 :]
            break
        if word in ("-m", "--match"):
            module = words[index] if index < len(words) else ""
            index += 1
            if module not in _OPTIONS:
                level = max(level, LIKELY if module in _LIKELY else UNLIKELY)
            continue
        count, reader = _find(word, (module, protocol))
        if reader is None:
            stop = index
            while stop < len(words) and not words[stop].startswith("-") and words[stop] != "!":
                stop += 1
            if module in _OPTIONS or word in _RARE_OPTIONS:
                level = UNLIKELY
            elif is_negated and level == UNLIKELY:
                level = LIKELY  # most packets are not in a set
        else:
            stop = index + count
            try:
                reader(rule, words[index:stop], is_negated)
            except (ValueError, IndexError):
                level = UNLIKELY
            if word in ("-p", "--protocol"):
                protocol = words[index] if index < len(words) else ""
        index, is_negated = stop, False
    if level != YES:
        rule.tests.append(lambda packet, answer=level: answer)  # type: ignore[misc]
    return rule


Reader = Callable[[Rule, "list[str]", bool], None]


def _find(word: str, modules: tuple[str, ...]) -> tuple[int, Reader | None]:
    if word in _BASE:
        return _BASE[word]
    for name in modules:
        if word in _OPTIONS.get(_NUMBERS.get(name, name), {}):
            return _OPTIONS[_NUMBERS.get(name, name)][word]
    return 0, None


def _add(rule: Rule, is_negated: bool, test: Test) -> None:
    """A test that says yes or no, or what is as likely the other way round."""
    turned = {NO: YES, YES: NO, LIKELY: LIKELY, UNLIKELY: LIKELY}
    rule.tests.append((lambda packet: turned[test(packet)]) if is_negated else test)


def _read_nothing(rule: Rule, values: list[str], is_negated: bool) -> None:
    """A comment matches everything."""


def _read_source(rule: Rule, values: list[str], is_negated: bool) -> None:
    spans: Spans = ()
    for item in values[0].split(","):
        if "-" in item:
            first, dummy, last = item.partition("-")
            spans = joined(spans, ((int(ip_address(first)), int(ip_address(last))),))
        else:
            spans = joined(spans, of_network(item))
    everywhere = EVERYWHERE[rule.family]
    spans = without(everywhere, spans) if is_negated else spans
    rule.source = spans if rule.source is None else common(rule.source, spans)
    rule.names_source = rule.names_source or not is_negated


def _read_destination(rule: Rule, values: list[str], is_negated: bool) -> None:
    spans = of_network(values[0])

    def test(packet: Packet) -> int:
        possible = packet.destinations or _DESTINATIONS[packet.family, packet.protocol, packet.interface]
        here = common(possible, spans)
        return NO if not here else YES if here == possible else LIKELY

    _add(rule, is_negated, test)


def _read_protocol(rule: Rule, values: list[str], is_negated: bool) -> None:
    name = _NUMBERS.get(values[0].lower(), values[0].lower())
    _add(rule, is_negated, lambda packet: YES if name in ("all", packet.protocol) else NO)


def _read_interface(rule: Rule, values: list[str], is_negated: bool) -> None:
    name = values[0]

    def test(packet: Packet) -> int:
        if name == "+":
            return YES
        takes_lo = name == "lo" or (name.endswith("+") and "lo".startswith(name[:-1]))
        if packet.interface == "lo":
            return YES if takes_lo else NO
        return NO if name == "lo" else LIKELY

    _add(rule, is_negated, test)


def _read_out_interface(rule: Rule, values: list[str], is_negated: bool) -> None:
    name = values[0]
    _add(rule, is_negated, lambda packet: YES if name == "+" else NO)  # INPUT knows none


def _read_fragment(rule: Rule, values: list[str], is_negated: bool) -> None:
    _add(rule, is_negated, lambda packet: NO)  # conntrack puts them together before


def _spans_of_ports(text: str) -> Spans:
    spans: Spans = ()
    for item in text.split(","):
        first, colon, last = item.partition(":")
        spans = joined(spans, ((int(first or 0), int(last or (65535 if colon else first))),))
    return spans


def _read_dport(rule: Rule, values: list[str], is_negated: bool) -> None:
    spans = _spans_of_ports(values[0])
    spans = without(PORTS, spans) if is_negated else spans
    rule.dport = spans if rule.dport is None else common(rule.dport, spans)


def _read_sport(rule: Rule, values: list[str], is_negated: bool) -> None:
    spans = _spans_of_ports(values[0])
    spans = without(PORTS, spans) if is_negated else spans
    rule.sport = spans if rule.sport is None else common(rule.sport, spans)


def _read_either_port(rule: Rule, values: list[str], is_negated: bool) -> None:
    spans = _spans_of_ports(values[0])
    # Whoever calls chooses the port it comes from
    _add(rule, is_negated, lambda packet: YES if common(packet.ports, spans) == packet.ports else LIKELY)


def _read_flags(rule: Rule, values: list[str], is_negated: bool) -> None:
    mask, wanted = (_flags(value) for value in values)

    def test(packet: Packet) -> int:
        certain = [flag for flag in mask if flag not in ("PSH", "URG")]
        if any((flag == packet.flags) != (flag in wanted) for flag in certain):
            return NO
        return YES if len(certain) == len(mask) else LIKELY

    _add(rule, is_negated, test)


def _flags(text: str) -> tuple[str, ...]:
    return FLAGS if text == "ALL" else () if text == "NONE" else tuple(text.split(","))


def _read_syn(rule: Rule, values: list[str], is_negated: bool) -> None:
    _read_flags(rule, ["FIN,SYN,RST,ACK", "SYN"], is_negated)


def _read_state(rule: Rule, values: list[str], is_negated: bool) -> None:
    states = values[0].split(",")
    is_moved = "SNAT" in states or "DNAT" in states
    _add(rule, is_negated, lambda packet: YES if packet.state in states else UNLIKELY if is_moved else NO)


def _read_mark(rule: Rule, values: list[str], is_negated: bool) -> None:
    rule.marks.append((*_value_and_mask(values[0]), is_negated))


def _read_destination_type(rule: Rule, values: list[str], is_negated: bool) -> None:
    types = values[0].split(",")
    _add(rule, is_negated, lambda packet: LIKELY if packet.protocol != "tcp" else YES if "LOCAL" in types else NO)


def _read_icmp_type(rule: Rule, values: list[str], is_negated: bool) -> None:
    kind, dummy, code = values[0].partition("/")
    number = int(_ICMPV6.get(kind, kind)) if kind != "any" else -1
    _add(rule, is_negated, lambda packet: YES if number in (-1, packet.icmp_type) and code in ("", "0") else NO)


_BASE: dict[str, tuple[int, Reader]] = {
    "-s": (1, _read_source),
    "--source": (1, _read_source),
    "-d": (1, _read_destination),
    "--destination": (1, _read_destination),
    "-p": (1, _read_protocol),
    "--protocol": (1, _read_protocol),
    "-i": (1, _read_interface),
    "--in-interface": (1, _read_interface),
    "-o": (1, _read_out_interface),
    "--out-interface": (1, _read_out_interface),
    "-f": (0, _read_fragment),
    "-c": (2, _read_nothing),
}
_PORT_OPTIONS: dict[str, tuple[int, Reader]] = {
    "--dport": (1, _read_dport),
    "--destination-port": (1, _read_dport),
    "--sport": (1, _read_sport),
    "--source-port": (1, _read_sport),
}
_OPTIONS: dict[str, dict[str, tuple[int, Reader]]] = {
    "tcp": {**_PORT_OPTIONS, "--tcp-flags": (2, _read_flags), "--syn": (0, _read_syn)},
    "udp": _PORT_OPTIONS,
    "multiport": {
        "--dports": (1, _read_dport),
        "--destination-ports": (1, _read_dport),
        "--sports": (1, _read_sport),
        "--source-ports": (1, _read_sport),
        "--ports": (1, _read_either_port),
    },
    "comment": {"--comment": (1, _read_nothing)},
    # A packet that NAT has sent here from another port is not judged
    "conntrack": {"--ctstate": (1, _read_state), "--ctorigdstport": (1, _read_dport)},
    "state": {"--state": (1, _read_state)},
    "mark": {"--mark": (1, _read_mark)},
    "iprange": {"--src-range": (1, _read_source)},
    "addrtype": {"--dst-type": (1, _read_destination_type)},
    "icmp6": {"--icmpv6-type": (1, _read_icmp_type)},
    "icmp": {"--icmp-type": (1, _read_icmp_type)},
}
_OPTIONS["ipv6-icmp"] = _OPTIONS["icmp6"]
