# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nftables table that the daemon owns: admit, revoke, guard. The kernel closes what it opens, also without us.

table inet knockd {
    flags owner                     # gone with our netlink socket; nobody else may change it, nor flush it
    set admitted4, admitted6        # address . protocol . port, each with its own deadline
    set ranges4, ranges6            # the same for ranges of ports, made when a door opens one
    chain admit                     # before the filter: marks packets of admitted sources
    chain guard                     # after the filter: refuses new connections to protected ports
    chain admit_published           # the same two for packets that the host hands on to a container or another host,
    chain guard_published           # by the port that they were sent to; only if asked for

    chain strays, candidate, stray  # before all else: packets that could be knocks, had they another port, ...
    set knocks                      # protocol . port of the doors' knocks, which are no strays
    set watched4, watched6          # ... are logged for these sources, which hold a first knock, see strays.py
    set tally4, tally6              # ... and counted for all: masked addresses, so a flood finds no end to fill
    set scanning4, scanning6        # those that sent too many a second
}
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from . import elements
from .elements import COMMENT_BYTES, NETLINK_NETFILTER, NFGENMSG, NFPROTO_INET, Element
from .model import Door, Guard, Network, PortRange
from .netlink import attribute, attributes, messages, refusal, request
from .packet import SNAP, TCP, UDP
from .sequence import Knock

TABLE = "inet knockd"
NAME = b"knockd"

ADMIT_PRIORITY = -5
"""Between mangle (-150), where rules.v4 clears foreign marks, and filter (0), where it passes ours."""
STRAYS_PRIORITY = -401
"""Before fragments are put together (-400), connections tracked, and anybody drops anything: what we hear as knocks."""
GUARD_PRIORITY = 5
"""After filter: what rules.v4 passes by mistake, or after a flush, still has to get past us."""

ELSEWHERE = "ct status dnat meta l4proto %s"
"""Packets that DNAT, REDIRECT or Docker sends elsewhere."""
ORIGINAL_PORT = "ct original proto-dst"
"""The port that they were sent to. nft takes it only behind a match of the protocol."""

LOGGED_PER_SECOND = 5000
"""Strays of watched sources that we are told; more of them tell nothing new."""
SCAN_RATE, SCAN_BURST = 100, 50
"""Strays a second, from one source, that are a scan, after a burst of so many."""
TALLY_SECONDS = 10
TALLIES = {4: b"\0\0\xff\xff", 6: bytes(7) + b"\xff" + bytes(7) + b"\xff"}
"""The bits of an address that have a tally of their own: 65,536 tallies in all. One for each address would be full
after so many spoofed ones, and count nobody else. Who scans and shares my tally could as well use my address."""

# linux/netfilter/nf_tables.h
NFT_MSG_GETTABLE = 10 << 8 | 1
NFTA_TABLE_NAME, NFTA_TABLE_OWNER = 1, 7


class KernelError(Exception):
    """The kernel or nftables refuses; the message says what was refused, why, and the cure where one is known."""


class Admitted(NamedTuple):
    """One source that may reach some ports now."""

    source: bytes
    ports: PortRange
    door: str
    left: float
    """Seconds; infinite for a door that stays open."""


class _Admission(NamedTuple):
    deadline: float
    door: str


class Table:
    """The daemon's table, there from `install` until `close` or the death of the process.

    Made after daemonising: it belongs to the process that holds the netlink socket.
    """

    def __init__(self) -> None:
        self._admissions: Dict[Tuple[bytes, PortRange], _Admission] = {}
        self._purge_at = 1024
        self._has_ranges = False
        self._installed = False
        self._counts = False
        try:
            import nftables  # Debian's python3-nftables; only a daemon with native doors or a guard needs it
        except ImportError as error:
            raise KernelError(
                "native doors and the guard need the Python module nftables: apt install python3-nftables (%s)" % error
            ) from error
        before = _open_files()
        self._nft = nftables.Nftables()
        self._socket = _netlink_socket(_open_files() - before)

    def install(
        self,
        mark: int,
        doors: Sequence[Door],
        guards: Sequence[Guard],
        group: Optional[int] = None,
        published: bool = False,
    ) -> None:
        """Makes the table, or swaps the chains of the one that is there, in one transaction; admissions stay.

        Strays are logged to this group of NFLOG; None counts none. `published` looks after ports that DNAT sends
        elsewhere as well.
        """
        has_ranges = self._has_ranges or any(ports.first != ports.last for door in doors for ports in door.open_ports)
        lines = [] if self._installed else ["create table %s { flags owner; }" % TABLE]
        lines += set_lines(has_ranges)
        lines += admit_lines(mark, has_ranges, published) + guard_lines(guards, has_ranges, published)
        if group is not None or self._counts:
            lines += stray_lines(doors, group)
        try:
            self._run(lines)
        except KernelError as error:
            raise error if self._installed else KernelError(_explain(str(error))) from error
        self._has_ranges = has_ranges
        self._installed = True
        self._counts = group is not None

    def admit(self, now: float, source: bytes, door: Door, seconds: Optional[float] = None) -> None:
        """Lets `source` reach the door's ports for `seconds`, 0 without end, or for the door's own open_timeout.

        Extends what it has, never shortens it.
        """
        lasting = door.open_timeout if seconds is None else seconds
        deadline = now + lasting if lasting else math.inf
        later = [
            ports for ports in door.open_ports if self._admissions.get((source, ports), _NEVER).deadline < deadline
        ]
        timeout, label = math.ceil(lasting * 1000), comment(door.name)
        self._send(
            elements.renew(NAME, [element(source, ports)._replace(timeout=timeout, comment=label) for ports in later])
        )
        self._admissions.update(((source, ports), _Admission(deadline, door.name)) for ports in later)
        if len(self._admissions) > self._purge_at:
            self._purge(now)

    def revoke(self, source: bytes, door: Optional[Door] = None) -> bool:
        """Ends what `door`, or any, has opened for `source`; says whether there was anything to end."""
        ended = [
            key
            for key, admission in self._admissions.items()
            if key[0] == source and (door is None or admission.door == door.name or key[1] in door.open_ports)
        ]
        self._send(elements.delete(NAME, [element(*key) for key in ended]))
        for key in ended:
            del self._admissions[key]
        return bool(ended)

    def admitted(self, now: float) -> List[Admitted]:
        """Who is in, the one who has to leave first at the front."""
        self._purge(now)
        inside = [
            Admitted(source, ports, held.door, held.deadline - now)
            for (source, ports), held in self._admissions.items()
        ]
        return sorted(inside, key=lambda one: one.left)

    def expect(self, knocks: Iterable[Knock]) -> None:
        """Takes these for knocks as well, until the next `install`."""
        if self._counts:
            self._send(elements.add(NAME, [Element("knocks", _knock_key(knock)) for knock in knocks]))

    def watch(self, begin: Iterable[Tuple[bytes, float]], end: Iterable[bytes]) -> None:
        """Logs the strays of these sources for so many seconds, and of those no longer."""
        self._send(
            elements.renew(
                NAME,
                [
                    Element("watched" + _family(source), source, timeout=math.ceil(seconds * 1000))
                    for source, seconds in begin
                ],
            )
            + elements.delete(NAME, [Element("watched" + _family(source), source) for source in end])
        )

    def scans(self, source: bytes) -> bool:
        """Whether this source, or one that shares its tally, has sent too many strays a second lately."""
        mask = TALLIES[4 if len(source) == 4 else 6]
        tally = bytes(byte & bits for byte, bits in zip(source, mask))
        problem = self._talk(elements.get(NAME, Element("scanning" + _family(source), tally)))
        if problem not in (0, errno.ENOENT):
            raise KernelError("the kernel does not say who scans: %s" % os.strerror(problem))
        return not problem

    def close(self) -> None:
        """Removes the table, and with it every admission."""
        if self._installed:
            self._installed = False
            self._run(["delete table %s" % TABLE])

    def _purge(self, now: float) -> None:
        self._admissions = {key: held for key, held in self._admissions.items() if held.deadline > now}
        self._purge_at = max(1024, 2 * len(self._admissions))

    def _send(self, changes: List[bytes]) -> None:
        """Changes elements in one transaction."""
        problem = self._talk(elements.batch(changes)) if changes else 0
        if problem:
            raise KernelError("the kernel refuses to change the table %s: %s" % (TABLE, os.strerror(problem)))

    def _talk(self, data: bytes) -> int:
        """Tells the kernel; 0 or an errno. It has done it, or said no, when send returns."""
        problem = 0
        try:
            self._socket.send(data)
            # Nothing may be left unread: libnftables would take it for an answer to its own next question.
            while True:
                problem = refusal(self._socket.recv(65536, socket.MSG_DONTWAIT)) or problem
        except BlockingIOError:
            return problem
        except OSError as error:
            return error.errno or errno.EIO

    def _run(self, lines: List[str]) -> None:
        status, _output, error = self._nft.cmd("\n".join(lines))
        if status:
            first = error.strip().splitlines()[0] if error and error.strip() else "nftables gives no reason"
            raise KernelError(first)


_NEVER = _Admission(-math.inf, "")


# What is in the table: pure.


def element(source: bytes, ports: PortRange) -> Element:
    """The element of an admission."""
    first, last = (source + _knock_key(Knock(port, ports.protocol)) for port in (ports.first, ports.last))
    family = _family(source)
    return Element("admitted" + family, first) if first == last else Element("ranges" + family, first, last)


def _family(source: bytes) -> str:
    return "4" if len(source) == 4 else "6"


def _knock_key(knock: Knock) -> bytes:
    return struct.pack(">B3xH2x", TCP if knock.protocol == "tcp" else UDP, knock.port)


def comment(name: str) -> bytes:
    """A door's name as nft's quoted strings can hold it."""
    clean = "".join(letter if letter.isprintable() and letter != '"' else "?" for letter in name)
    return clean.encode(errors="replace")[:COMMENT_BYTES].decode(errors="ignore").encode()


# The text of the table: pure.


def set_lines(has_ranges: bool) -> List[str]:
    """The sets; `add` leaves those that are there, with their elements, alone."""
    sets = [("admitted", "timeout")] + ([("ranges", "interval,timeout")] if has_ranges else [])
    return [
        "add set %s %s%s { type %s . inet_proto . inet_service; flags %s; }" % (TABLE, name, family, kind, flags)
        for name, flags in sets
        for family, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr"))
    ]


def admit_lines(mark: int, has_ranges: bool, published: bool = False) -> List[str]:
    """The chains that set our bit of the mark on packets of admitted sources.

    REDIRECT brings a published port to the host itself, by another number: so also these packets meet the first chain.
    """
    matches = {"admit": admitted(has_ranges), "admit_published": []}
    if published:
        elsewhere = [
            "%s %s" % (ELSEWHERE % protocol, match)
            for protocol in ("tcp", "udp")
            for match in admitted(has_ranges, ORIGINAL_PORT)
        ]
        matches = {"admit": matches["admit"] + elsewhere, "admit_published": elsewhere}
    lines = []
    for (name, found), hook in zip(matches.items(), ("input", "forward")):
        rules = ["%s meta mark set meta mark | %#x" % (match, mark) for match in found]
        lines += _chain(name, hook, ADMIT_PRIORITY, rules)
    return lines


def guard_lines(guards: Sequence[Guard], has_ranges: bool, published: bool = False) -> List[str]:
    """The guard chains, anew; none without a guard file.

    They ask the sets, not the mark: after someone's `nft flush ruleset` nobody clears foreign marks any more.
    """
    rules = _guard_rules(guards, "%s dport { %s }", admitted(has_ranges))
    elsewhere = []
    if published:
        to_ports = "%s %s { %%s }" % (ELSEWHERE, ORIGINAL_PORT)
        elsewhere = _guard_rules(guards, to_ports, admitted(has_ranges, ORIGINAL_PORT))
    begin = ["iif lo accept", "ct state established,related accept"]
    return _chain("guard", "input", GUARD_PRIORITY, begin + rules + elsewhere if guards else []) + _chain(
        "guard_published", "forward", GUARD_PRIORITY, begin[1:] + elsewhere if elsewhere else []
    )


def _chain(name: str, hook: str, priority: int, rules: List[str]) -> List[str]:
    """A chain with these rules in place of those that it has; without rules there shall be none."""
    create = [
        "add chain %s %s { type filter hook %s priority %d; policy accept; }" % (TABLE, name, hook, priority),
        "flush chain %s %s" % (TABLE, name),
    ]
    if not rules:
        return create + ["delete chain %s %s" % (TABLE, name)]
    return create + ["add rule %s %s %s" % (TABLE, name, rule) for rule in rules]


def _guard_rules(guards: Sequence[Guard], to_ports: str, admissions: List[str]) -> List[str]:
    """What refuses strangers; `to_ports` is the match of packets of a protocol to some ports."""
    rules = []
    for guard in guards:
        allowed = [
            "%s saddr { %s } " % (family, ", ".join(str(network) for network in networks))
            for family, networks in (("ip", _collapsed(guard.allow, 4)), ("ip6", _collapsed(guard.allow, 6)))
            if networks
        ]
        if guard.knock:
            allowed += [match + " " for match in admissions]
        for protocol in ("tcp", "udp"):
            ports = _merged(guard.ports, protocol)
            if not ports:
                continue
            where = to_ports % (protocol, ", ".join(_span(*span) for span in ports))
            rules += ["%s %saccept" % (where, source) for source in allowed]
            # A first SYN only: a session whose conntrack entry is lost (conntrack -F, a full table) lives on.
            new = "tcp flags & (fin|syn|rst|ack) == syn" if protocol == "tcp" else "ct state new"
            reset = "reject with tcp reset" if protocol == "tcp" else "reject"
            rules.append("%s %s %s" % (where, new, "drop" if guard.refuse == "drop" else reset))
    return rules


def stray_lines(doors: Sequence[Door], group: Optional[int]) -> List[str]:
    """The chains that find strays, anew; none without a group to log to."""
    chains = ("strays", "candidate", "stray")  # each goes on in the next
    made = [
        "add chain %s strays { type filter hook prerouting priority %d; policy accept; }" % (TABLE, STRAYS_PRIORITY),
        *("add chain %s %s" % (TABLE, chain) for chain in chains[1:]),
        *("flush chain %s %s" % (TABLE, chain) for chain in chains),
    ]
    if group is None:
        return made + ["delete chain %s %s" % (TABLE, chain) for chain in chains]
    for family, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr")):
        counting = "type %s; size 131072; flags dynamic,timeout;" % kind
        made += [
            "add set %s watched%s { type %s; flags timeout; }" % (TABLE, family, kind),
            "add set %s tally%s { %s timeout %ds; }" % (TABLE, family, counting, TALLY_SECONDS),
            "add set %s scanning%s { %s timeout %ds; }" % (TABLE, family, counting, TALLY_SECONDS),
        ]
    knocks = sorted({knock for door in doors for knock in door.sequence})
    made += [
        "add set %s knocks { type inet_proto . inet_service; }" % TABLE,
        "flush set %s knocks" % TABLE,
    ]
    if knocks:
        listed = ", ".join("%s . %d" % (knock.protocol, knock.port) for knock in knocks)
        made.append("add element %s knocks { %s }" % (TABLE, listed))
    # What a door counts by its flags and its target counts here: nobody can scan for it with other packets.
    rules = ["strays iif lo return"]
    flags = {door.tcpflags for door in doors if any(knock.protocol == "tcp" for knock in door.sequence)}
    for mask, value in sorted(flags):
        wanted = "tcp flags & %#x == %#x" % (mask, value) if mask else "meta l4proto tcp"
        rules.append("strays %s goto candidate" % wanted)
    if any(knock.protocol == "udp" for knock in knocks):
        rules.append("strays meta l4proto udp goto candidate")
    # First what costs least, and what a flood of first knocks ends at.
    rules.append("candidate meta l4proto . th dport @knocks return")
    # Any socket at all, listening, connected, or about to be: asked for what it is, there is no answer without one.
    rules.append("candidate socket transparent { 0, 1 } return")
    for target in sorted({str(door.target) for door in doors if door.target}):
        rules.append("candidate %s daddr %s goto stray" % ("ip6" if ":" in target else "ip", target))
    rules.append("candidate fib daddr type local goto stray")
    for version, protocol in ((4, "ip"), (6, "ip6")):
        bits = socket.inet_ntop(socket.AF_INET if version == 4 else socket.AF_INET6, TALLIES[version])
        tally = "{ %s saddr & %s" % (protocol, bits)
        rules += [
            "stray %s saddr @watched%d limit rate %d/second burst %d packets log group %d snaplen %d"
            % (protocol, version, LOGGED_PER_SECOND, LOGGED_PER_SECOND // 10, group, SNAP),
            "stray update @tally%d %s limit rate over %d/second burst %d packets } add @scanning%d %s }"
            % (version, tally, SCAN_RATE, SCAN_BURST, version, tally),
        ]
    return made + ["add rule %s %s" % (TABLE, rule) for rule in rules]


def admitted(has_ranges: bool, port: str = "th dport") -> List[str]:
    """The matches that hold for packets of admitted sources."""
    return [
        "%s saddr . meta l4proto . %s @%s%s" % (protocol, port, name, family)
        for name in (["admitted", "ranges"] if has_ranges else ["admitted"])
        for protocol, family in (("ip", "4"), ("ip6", "6"))
    ]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else "%d-%d" % (first, last)


def _merged(ports: Iterable[PortRange], protocol: str) -> List[Tuple[int, int]]:
    """Ranges that do not overlap: nft refuses others within one set."""
    spans: List[Tuple[int, int]] = []
    for first, last, _protocol in sorted(span for span in ports if span.protocol == protocol):
        if spans and first <= spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    return spans


def _collapsed(networks: Iterable[Network], version: int) -> List[Network]:
    from ipaddress import collapse_addresses

    return list(collapse_addresses(network for network in networks if network.version == version))  # type: ignore


# Who is in the way.


def _explain(error: str) -> str:
    """Turns nftables' refusal to make the table into a sentence with its cause and cure."""
    found, owner = _find_table()
    if found and owner:
        return "another process holds the nftables table %s: %s; stop it first" % (TABLE, _who(owner))
    if found:
        return "a table %s that nobody owns is in the way; remove it: nft delete table %s" % (TABLE, TABLE)
    if "syntax error" in error or "not supported" in error or "Invalid argument" in error:
        return "nftables refuses a table with an owner (kernel 5.12 and nftables 1.0 or later are needed): %s" % error
    if "not permitted" in error:
        return "nftables refuses to make the table %s: %s; CAP_NET_ADMIN is needed" % (TABLE, error)
    return "nftables refuses to make the table %s: %s" % (TABLE, error)


def _find_table() -> Tuple[bool, Optional[int]]:
    """Whether our table is there, and the netlink port of its owner if it has one."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as query:
            query.settimeout(1)
            name = attribute(NFTA_TABLE_NAME, NAME + b"\0")
            query.send(request(NFT_MSG_GETTABLE, 0, NFGENMSG.pack(NFPROTO_INET, 0, 0) + name))
            for kind, _flags, payload in messages(query.recv(65536)):
                if kind == NFT_MSG_GETTABLE - 1:  # NFT_MSG_NEWTABLE
                    owner = attributes(payload[NFGENMSG.size :]).get(NFTA_TABLE_OWNER)
                    return True, struct.unpack(">I", owner)[0] if owner else None
    except OSError:
        pass
    return False, None


def _who(port: int) -> str:
    """The process behind a netlink port: the kernel gives a process's first socket its id (netlink(7))."""
    try:
        with open("/proc/%d/cmdline" % port, "rb") as cmdline:
            command = cmdline.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "netlink port %d (its process cannot be seen from here)" % port
    return "process %d (%s)" % (port, command)


def _open_files() -> Set[Tuple[int, str]]:
    """Our descriptors and what they are open on; none without /proc."""
    files = set()
    try:
        names = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        names = []
    for name in names:
        try:
            files.add((int(name), os.readlink("/proc/self/fd/" + name)))
        except FileNotFoundError:
            pass  # the descriptor that has listed the others
    return files


def _netlink_socket(opened: Iterable[Tuple[int, str]]) -> socket.socket:
    """The socket by which libnftables talks to the kernel, and owns the table, under a descriptor of our own."""
    for descriptor, _file in opened:
        # A child that inherits it would keep the table, and every hole, alive after our death.
        os.set_inheritable(descriptor, False)
        try:
            found = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            continue  # some other file
        if found.family == socket.AF_NETLINK and found.proto == NETLINK_NETFILTER:
            if not found.getsockname()[0]:
                found.bind((0, 0))  # now, as the first one of this process: then it bears its number, see `_who`
            return found
        found.close()
    raise KernelError("the netlink socket of nftables is not to be seen in /proc/self/fd: is /proc mounted?")
