# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof by rehearsal: rules are loaded in a scratch network and real packets are sent through them.

What comes out are sentences. A candidate that fails is never applied; a host that cannot rehearse is no reason against
a candidate, and is said.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from typing import Any, Iterator, Mapping, NamedTuple, Sequence, Tuple

from ._cast import FOREIGN, KNOCKER, STRANGER, Cast, Source, choose, in_which
from ._gates import Gate
from ._loads import Command, Load
from ._rules import Ports
from ._scratch import (
    GATEWAY_LINK_LOCAL,
    Cannot,
    Child,
    Link,
    Refused,
    Scratch,
    allow_many_sockets,
    by_nft,
    complaint,
    execute,
    tool,
)
from ._traffic import Attempt, Traffic

NAMES = {"v4": "IPv4", "v6": "IPv6"}

_CONTROL_TAKES = 15.0
"""Seconds: a packet that is lost on a busy host is sent again after 1, 3 and 7 of them."""
_MOST_PORTS_OF_ALL = 2
"""So many ports are tried from every source, the others from one of each part."""

_CONNTRACK = "add table inet rehearsal_conntrack\n" + "".join(
    "add chain inet rehearsal_conntrack %s { type filter hook %s priority 300; }\n"
    "add rule inet rehearsal_conntrack %s ct state established counter\n" % (hook, hook, hook)
    for hook in ("input", "output")
)
"""Makes the kernel remember sessions, as it does on a host that has any rule about them."""

_MARKS = "rehearsal_marks"

_DEAF_TO_NARROW_PATHS = (
    "%s: the rules do not let the host hear by ICMP that a packet is too big for the path: connections over a tunnel "
    "may hang."
)

# Who acts on packets outside of the kernel is not there in a scratch network, and no packet comes back from it
_QUEUE = re.compile(r"-j NFQUEUE\b|\bqueue( (num|to|flags)\b|\s*$)", re.MULTILINE)


class Rehearsal(NamedTuple):
    """What a rehearsal has found, each a sentence."""

    problems: list[str]
    """Why the candidate must not be applied."""
    skipped: str = ""
    """Why nothing, or one family, could be rehearsed here."""
    remarks: list[str] = []
    """What was left out, and what is strange but not of our making."""


class Finding(NamedTuple):
    """One promise that was not kept."""

    sentence: str
    is_selective: bool = False
    """Somebody was shut out, while others of those who should get in did."""
    is_remark: bool = False


# --- for the module --------------------------------------------------------------------------------------------------


def rehearse(load: Mapping[str, Load], gates: Sequence[Gate]) -> Rehearsal:
    """Try the candidate of each family (`v4`, `v6`) out. Takes well under a second if all is well."""
    found: list[Rehearsal] = []
    children: dict[str, Child] = {}
    try:
        for family, commands in load.items():
            # Both at once, each in namespaces of its own
            try:
                children[family] = Child(functools.partial(_rehearse_family, family, commands, gates))
            except OSError as reason:
                found.append(_skipped(family, reason))
        for family, child in children.items():
            try:
                found.append(Rehearsal(*child.result()))
            except (Cannot, OSError) as reason:
                found.append(_skipped(family, reason))
    finally:
        for child in children.values():
            child.end()
    return Rehearsal(
        [problem for one in found for problem in one.problems],
        " ".join(one.skipped for one in found if one.skipped),
        [remark for one in found for remark in one.remarks],
    )


def _skipped(family: str, reason: Exception) -> Rehearsal:
    return Rehearsal([], "%s could not be rehearsed on this host: %s." % (NAMES[family], str(reason).rstrip(".")), [])


# --- the host as it is -----------------------------------------------------------------------------------------------


def host_link(family: str) -> Link:
    """The interface and the address that this host shows to the world; made up where it has none."""
    ip = tool("ip")
    if not ip:
        raise Cannot("the command ip is missing (package iproute2)")
    version = "-6" if family == "v6" else "-4"
    routes = _json_of([ip, version, "-j", "route", "show", "default"])
    names = [name for route in routes for name in _devices(route)]
    interface = names[0] if names else "eth0"
    addresses = _global_addresses(_json_of([ip, version, "-j", "addr", "show"]), interface)
    made_up = "2001:db8::a:1" if family == "v6" else "192.0.2.1"
    return Link(interface, addresses[0] if addresses else made_up, GATEWAY_LINK_LOCAL)


def _json_of(argv: Sequence[str]) -> list[dict[str, Any]]:
    done = execute(argv)
    if done.returncode != 0:
        return []  # no such family here
    try:
        return [item for item in json.loads(done.stdout or "[]") if item]
    except ValueError:
        return []


def _devices(route: Mapping[str, Any]) -> list[str]:
    hops = [route] + list(route.get("nexthops", []))
    return [str(hop["dev"]) for hop in hops if hop.get("dev") not in (None, "lo")]


def _global_addresses(links: Sequence[Mapping[str, Any]], interface: str) -> list[str]:
    """Those of the interface come first, and those that do not change."""
    found = []
    for link in links:
        for item in link.get("addr_info", []):
            if item.get("scope") == "global" and item.get("local"):
                passing = any(item.get(flag) for flag in ("temporary", "deprecated", "tentative", "dadfailed"))
                found.append((link.get("ifname") != interface, passing, str(item["local"])))
    return [address for dummy, dummy2, address in sorted(found, key=lambda item: item[:2])]


# --- one family ------------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """What does not change between trials."""

    family: str
    link: Link
    cast: Cast
    gates: Sequence[Gate]

    @property
    def name(self) -> str:
        return NAMES[self.family]

    @property
    def mark(self) -> int:
        """What the daemon sets; 0 where no knock opens anything."""
        mark = 0
        for gate in self.gates:
            mark |= gate.mark
        return mark

    @property
    def nft(self) -> list[str]:
        """Reads nft's language, and sets marks; empty where nothing here can."""
        return by_nft()


def _set_the_stage(family: str, gates: Sequence[Gate]) -> Stage:
    link = host_link(family)
    cast = choose(gates, family, link.address)
    return Stage(family, link if family == "v6" else link._replace(gateway=cast.gateway), cast, gates)


def _rehearse_family(family: str, load: Load, gates: Sequence[Gate]) -> Rehearsal:
    """In a process of its own."""
    allow_many_sockets()
    stage = _set_the_stage(family, gates)
    remarks = []
    if not stage.nft:
        remarks.append(
            "%s: no mark was rehearsed, neither an admitted knocker's nor another program's: the package "
            "python3-nftables is missing." % stage.name
        )
    reason = ""
    findings: list[Finding] = []
    try:
        if load.alone and any(_QUEUE.search(text) for dummy, text in load.whole):
            reason = "they hand packets to a program (NFQUEUE)"
        else:
            findings = _trial(stage, load.whole)
    except Refused as refusal:
        if not load.alone:
            return Rehearsal([_does_not_load(stage, refusal)], "", remarks)
        reason = str(refusal).rstrip(".")
    try:
        if reason:
            findings = _trial(stage, load.alone)
            remarks.append(
                "%s: rules of others were left out of the rehearsal, because a scratch network cannot have them: %s."
                % (stage.name, reason)
            )
        elif load.alone and any(not finding.is_remark for finding in findings):
            with contextlib.suppress(Cannot):
                findings = _attribute(findings, _trial(stage, load.alone))
    except Refused as refusal:
        return Rehearsal([_does_not_load(stage, refusal)], "", remarks)
    remarks += [finding.sentence for finding in findings if finding.is_remark]
    return Rehearsal([finding.sentence for finding in findings if not finding.is_remark], "", remarks)


def _does_not_load(stage: Stage, refusal: Refused) -> str:
    return "%s: the candidate cannot be loaded: %s." % (stage.name, str(refusal).rstrip("."))


def _attribute(findings: Sequence[Finding], alone: Sequence[Finding]) -> list[Finding]:
    """Say which problems are there only with the rules of others.

    Where these shut out one and let others in (a ban, a limit), that is how the host is, and no reason against it.
    """
    ours = {finding.sentence for finding in alone}
    attributed = []
    for finding in findings:
        if finding.sentence not in ours and not finding.is_remark:
            finding = finding._replace(
                sentence=finding.sentence + " Without the rules of others this is not so.",
                is_remark=finding.is_selective,
            )
        attributed.append(finding)
    return attributed


# --- one trial -------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """Somebody at a port, and whether the gate promises to let him in."""

    source: Source
    gate: Gate
    port: Ports
    wanted: bool


Tried = Tuple[Entry, Attempt]


def _trial(stage: Stage, commands: Sequence[Command]) -> list[Finding]:
    """Load the commands in a new scratch network, and see who gets in. Raises Cannot and Refused."""
    for dummy in range(NETWORKS - 1):
        with contextlib.suppress(Lost):
            return _trial_in_one_network(stage, commands)
    return _trial_in_one_network(stage, commands)


def _trial_in_one_network(stage: Stage, commands: Sequence[Command]) -> list[Finding]:
    with contextlib.ExitStack() as ends:
        scratch = Scratch(stage.link, [source.address for source in stage.cast.sources])
        ends.callback(scratch.close)
        traffic = Traffic(stage.family)
        ends.callback(traffic.close)
        return _Trial(stage, scratch, traffic).run(commands)


NETWORKS = 3
"""How many scratch networks may lose packets before there is any rule: on a busy host one does now and then."""


class Lost(Cannot):
    """Packets are lost before there is any rule."""


class _Trial:
    def __init__(self, stage: Stage, scratch: Scratch, traffic: Traffic) -> None:
        self._stage = stage
        self._scratch = scratch
        self._traffic = traffic
        self._patience = 0.0
        self._quiet = 0.0
        self._entries = list(_entries(stage))
        self._findings: list[Finding] = []
        self._hears_of_narrow_paths = False

    def run(self, commands: Sequence[Command]) -> list[Finding]:
        if not self._entries:
            self._scratch.load(commands)
            return []
        old = self._without_rules()
        self._scratch.load(commands)
        self._set_marks()
        if self._stage.family == "v6":  # no rule here is asked about ARP
            self._scratch.forget_neighbours()
        results, local, kept, word = self._with_rules(old)
        if self._is_deaf(results):
            return [
                Finding(
                    "IPv6: nobody gets in, because neighbour discovery (ICMPv6 types 135 and 136) does not get through "
                    "the rules in the rehearsal."
                )
            ]
        self._judge_entries(results)
        for entry, attempt in local:
            if not attempt.succeeded:
                someone = any(attempt.succeeded for entry, attempt in results if entry.wanted)
                self._find("the host itself did not get into %s in the rehearsal." % str(entry.port), someone)
        self._judge_sessions("a session from before the change ended in the rehearsal (%s).", kept)
        if all(attempt.succeeded for dummy, attempt in kept):
            sentence = "a session ended with its knocker's admission in the rehearsal (%s)."
            self._judge_sessions(sentence, self._after_admission(results))
        if word and not word.succeeded:
            self._findings.append(Finding(_DEAF_TO_NARROW_PATHS % self._stage.name, is_remark=True))
        return self._findings

    # The acts.

    def _without_rules(self) -> list[tuple[Entry, Attempt, bool]]:
        """Everybody gets in where there are no rules: else no trial proves anything. Returns sessions for later.

        With each: whether the kernel remembers it. One that it does not know is known once the host has spoken.
        """
        with self._scratch.at(self._scratch.host):
            for port, protocol in {(entry.port.first, entry.port.protocol) for entry in self._entries}:
                self._traffic.listen(port, protocol)
        tries = [(entry, self._enter(entry, wanted=True)) for entry in self._entries]
        local = [self._enter_locally(entry) for entry in self._of_one_source()]
        took = self._settle_control([attempt for dummy, attempt in tries] + local)
        self._traffic.drop(local)
        word = self._tell_too_big()
        self._traffic.settle([word], 0.1, 0)
        self._hears_of_narrow_paths = bool(word.succeeded)
        # A loaded host is slow, and never wrong
        self._patience = min(8.0, max(3.5, 10 * took))  # a SYN is sent again after 1 and 3 seconds
        self._quiet = min(1.0, max(0.3, 5 * took))
        connections = [(entry, attempt) for entry, attempt in tries if entry.port.protocol == "tcp"]
        # Strangers have nothing but their session
        connections.sort(key=lambda item: item[0].source.part != STRANGER)
        unknown = _one_for_each_port(connections)
        kept = [attempt for dummy, attempt in unknown]
        self._traffic.drop(attempt for dummy, attempt in tries if attempt not in kept)
        self._settle_control([self._traffic.talk(session) for session in kept])
        known = []
        if self._stage.nft:
            self._nft(_CONNTRACK)
            known = [(entry, self._enter(entry, wanted=True)) for entry, dummy in unknown]
            self._settle_control([attempt for dummy, attempt in known])
            self._settle_control([self._traffic.talk(session) for dummy, session in known])
        return [(entry, session, False) for entry, session in unknown] + [(*item, True) for item in known]

    def _with_rules(
        self, old: Sequence[tuple[Entry, Attempt, bool]]
    ) -> tuple[list[Tried], list[Tried], list[Tried], Attempt | None]:
        """Who got in; the host itself; sessions of before; and word of a narrow path."""
        # Who must not get in comes first: what others achieve after it shows that its packets have been dealt with
        entries = sorted(self._entries, key=lambda entry: entry.wanted)
        results = [(entry, self._enter(entry, entry.wanted)) for entry in entries]
        local = [(entry, self._enter_locally(entry)) for entry in self._of_one_source()]
        kept = [(entry, self._traffic.talk(session, host_first=not known)) for entry, session, known in old]
        word = self._tell_too_big() if self._hears_of_narrow_paths else None
        everything = [attempt for dummy, attempt in results + local + kept] + ([word] if word else [])
        self._traffic.settle(everything, self._patience, self._quiet)
        return results, local, kept, word

    def _after_admission(self, results: Sequence[Tried]) -> list[Tried]:
        """Sessions of knockers, which speak once with the mark and once when it is gone."""
        opened = [
            (entry, attempt)
            for entry, attempt in results
            if entry.source.part == KNOCKER and entry.gate.mark and entry.port.protocol == "tcp" and attempt.succeeded
        ]
        sessions = _one_for_each_port(opened)
        if not sessions:
            return []
        during = [(entry, self._traffic.talk(session)) for entry, session in sessions]
        self._traffic.settle([attempt for dummy, attempt in during], self._patience, self._quiet)
        self._nft("delete table inet %s\n" % _MARKS)
        after = [(entry, self._traffic.talk(session)) for entry, session in sessions]
        self._traffic.settle([attempt for dummy, attempt in after], self._patience, self._quiet)
        return after

    # Small parts.

    def _tell_too_big(self) -> Attempt:
        with self._scratch.at(self._scratch.host):
            flow = self._traffic.flow(self._stage.link.address)
        with self._scratch.at(self._scratch.world):
            return self._traffic.tell_too_big(flow, self._stage.cast.sources[-1].address)

    def _enter(self, entry: Entry, wanted: bool) -> Attempt:
        with self._scratch.at(self._scratch.world):
            return self._traffic.try_to_reach(
                self._stage.link.address, entry.port.first, entry.port.protocol, entry.source.address, wanted
            )

    def _enter_locally(self, entry: Entry) -> Attempt:
        own = self._stage.link.address
        with self._scratch.at(self._scratch.host):
            return self._traffic.try_to_reach(own, entry.port.first, entry.port.protocol, own, True)

    def _of_one_source(self) -> list[Entry]:
        """Each port once."""
        return [entry for entry, dummy in _one_for_each_port([(entry, None) for entry in self._entries])]

    def _settle_control(self, attempts: Sequence[Attempt]) -> float:
        took = self._traffic.settle(attempts, _CONTROL_TAKES, 0)
        lost = sum(not attempt.succeeded for attempt in attempts)
        if lost:
            raise Lost(
                "packets do not get through a scratch network even without rules (%d of %d were lost)"
                % (lost, len(attempts))
            )
        return took

    def _nft(self, text: str) -> None:
        done = self._scratch.run(self._stage.nft, text)
        if done.returncode != 0:
            raise Cannot("the kernel refuses the marks of a rehearsal: nft: %s" % complaint(done))

    def _set_marks(self) -> None:
        """What the daemon does with admitted knockers, and what another program might do before it."""
        if not self._stage.nft:
            return
        table, word = _MARKS, "ip6" if self._stage.family == "v6" else "ip"
        lines = [
            "add table inet " + table,
            "add chain inet %s raw { type filter hook prerouting priority -300; }" % table,
            "add chain inet %s input { type filter hook input priority -5; }" % table,
        ]
        foreign, knockers = self._stage.cast.of(FOREIGN), self._stage.cast.of(KNOCKER)
        lines += ["add rule inet %s raw %s saddr %s meta mark set 0xffffffff" % (table, word, one) for one in foreign]
        if self._stage.mark:
            lines += [
                "add rule inet %s input %s saddr %s meta mark set meta mark | %#x"
                % (table, word, one, self._stage.mark)
                for one in knockers
            ]
        self._nft("".join(line + "\n" for line in lines))

    # Judging.

    def _find(self, sentence: str, is_selective: bool = False) -> None:
        finding = Finding("%s: %s" % (self._stage.name, sentence), is_selective)
        if finding not in self._findings:
            self._findings.append(finding)

    def _is_deaf(self, results: Sequence[Tried]) -> bool:
        """Whether somebody gets in only once the neighbours know each other without asking."""
        wanted = [entry for entry, attempt in results if entry.wanted]
        if self._stage.family != "v6" or not wanted or any(a.succeeded for entry, a in results if entry.wanted):
            return False
        self._scratch.introduce_neighbours()
        again = [self._enter(entry, True) for entry in wanted[:8]]
        self._traffic.settle(again, self._patience, self._quiet)
        return any(attempt.succeeded for attempt in again)

    def _judge_entries(self, results: Sequence[Tried]) -> None:
        someone = any(attempt.succeeded for entry, attempt in results if entry.wanted)
        for port, gate in dict.fromkeys((entry.port, entry.gate) for entry in self._entries):
            here = [
                (entry.source, entry.wanted, bool(attempt.succeeded))
                for entry, attempt in results
                if (entry.port, entry.gate) == (port, gate)
            ]
            self._judge_allowed(gate, port, here, someone)
            self._judge_knockers(gate, port, here)
            self._judge_strangers(gate, port, here)

    def _judge_allowed(self, gate: Gate, port: Ports, here: Sequence[tuple[Source, bool, bool]], someone: bool) -> None:
        networks: dict[str, list[tuple[str, bool]]] = {}
        for source, dummy, got_in in here:
            network = in_which(gate, source.address)
            if network:
                networks.setdefault(network, []).append((source.address, got_in))
        for network, tries in networks.items():
            failed = [address for address, got_in in tries if not got_in]
            if len(failed) == len(tries):
                who = "an address from anywhere" if network.endswith("/0") else "the allowlisted " + network
                self._find("%s did not get into %s in the rehearsal." % (who, port), is_selective=someone)
            elif failed:
                sentence = "%s of the allowlisted %s did not get into %s in the rehearsal."
                self._find(sentence % (failed[0], network, port), is_selective=True)

    def _judge_knockers(self, gate: Gate, port: Ports, here: Sequence[tuple[Source, bool, bool]]) -> None:
        tries = [
            got_in for source, wanted, got_in in here if source.part == KNOCKER and not in_which(gate, source.address)
        ]
        if not gate.mark or not tries:
            return
        if not any(tries):
            # No ban hits them all
            self._find("an admitted knocker (mark %#x) did not get into %s in the rehearsal." % (gate.mark, port))

    def _judge_strangers(self, gate: Gate, port: Ports, here: Sequence[tuple[Source, bool, bool]]) -> None:
        intruders = [source for source, wanted, got_in in here if got_in and not wanted]
        parts = {source.part for source in intruders}
        if STRANGER in parts:
            self._find("a stranger got into %s in the rehearsal." % str(port))
        elif FOREIGN in parts:
            self._find("a stranger with the mark of another program got into %s in the rehearsal." % str(port))
        elif KNOCKER in parts:
            self._find("an admitted knocker got into %s in the rehearsal, which no knock opens." % str(port))
        elif parts:
            sentence = "%s got into %s in the rehearsal, which is on another allowlist."
            self._find(sentence % (intruders[0].address, port))

    def _judge_sessions(self, sentence: str, sessions: Sequence[Tried]) -> None:
        for entry, attempt in sessions:
            if not attempt.succeeded:
                self._find(sentence % str(entry.port))


def _entries(stage: Stage) -> Iterator[Entry]:
    """Everybody at the first ports of each gate, one of each part at the others."""
    sources = [source for source in stage.cast.sources if stage.nft or source.part not in (FOREIGN, KNOCKER)]
    if not stage.mark:
        sources = [source for source in sources if source.part != KNOCKER]
    first_of_part = list({source.part: source for source in reversed(sources)}.values())
    for gate in stage.gates:
        for number, port in enumerate(_single_ports(gate)):
            for source in sources if number < _MOST_PORTS_OF_ALL else first_of_part:
                wanted = bool(in_which(gate, source.address)) or (source.part == KNOCKER and gate.mark != 0)
                yield Entry(source, gate, port, wanted)


def _single_ports(gate: Gate) -> list[Ports]:
    """The first and the last one of each range."""
    ends = [Ports(port, port, ports.protocol) for ports in gate.ports for port in (ports.first, ports.last)]
    return list(dict.fromkeys(ends))


def _one_for_each_port(items: Sequence[tuple[Entry, Any]]) -> list[tuple[Entry, Any]]:
    found: dict[Ports, tuple[Entry, Any]] = {}
    for entry, thing in items:
        found.setdefault(entry.port, (entry, thing))
    return list(found.values())
