# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds the rules of a family to what gates promise, before they are loaded: who is locked out, who gets in, and why.

Tables of iptables, and base chains of nftables at the input hook, are judged. What comes before (raw, PREROUTING, nat)
is not: the rehearsal looks at that.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Sequence

from ._gates import Gate
from ._match import LIKELY, YES, Packet
from ._rules import Ports
from ._spans import EVERYWHERE, Spans, common, joined, of_network, size, without
from ._walk import BaseChain, Packets, Walk

_NOT_FROM_OUTSIDE = {
    # The kernel takes no packet with such a source from any interface but lo
    "v4": ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32"),
    "v6": ("::/128", "::1/128", "ff00::/8"),
}
_LOOPBACK = {"v4": "127.0.0.1/32", "v6": "::1/128"}
_CALLERS_PORTS: Spans = ((1024, 65535),)
_FOREIGN_MARK = 0xFFFFFFFF
_NEEDED_OF_ICMPV6 = (
    (2, "RELATED", "packet-too-big messages"),
    (134, "UNTRACKED", "router advertisements"),
    (135, "UNTRACKED", "neighbour solicitations"),
    (136, "UNTRACKED", "neighbour advertisements"),
)
_MOST_NAMED = 5
_EVERYBODY = "everybody"


class Judgement(NamedTuple):
    """Sentences for people. Problems break a promise; remarks say what could not be known."""

    problems: list[str]
    remarks: list[str]


class _Way(NamedTuple):
    """A way in that a gate promises."""

    who: str
    is_knock: bool
    start: Packets
    mark_set: int = 0


class _Answer(NamedTuple):
    """Whether packets get in; and what refuses them, if not all do."""

    is_open: bool
    refusal: Packets | None = None
    is_ban: bool = False


class Case(NamedTuple):
    """The base chains that packets of a family meet, and when, in words that begin a sentence."""

    chains: Sequence[BaseChain]
    family: str
    when: str = ""


def judge_all(cases: Sequence[Case], gates: Sequence[Gate]) -> Judgement:
    """What is wrong in any of these cases; no problem if every promise holds."""
    problems, remarks = [], []
    for case in cases:
        found = _judge_chains(case.chains, case.family, gates)
        problems += [case.when + sentence for sentence in found.problems]
        remarks += [case.when + sentence for sentence in found.remarks]
    return Judgement(problems, remarks)


def _judge_chains(chains: Sequence[BaseChain], family: str, gates: Sequence[Gate]) -> Judgement:
    judge_of_family = _Judge(chains, family)
    loop = judge_of_family.walk.loop()
    if loop:
        judge_of_family.problem("`%s` of %s leads back to a chain that has led to it." % loop)
        return judge_of_family.judgement
    marks = 0
    for gate in gates:
        marks |= gate.mark
    for gate in gates:
        for ports in gate.ports:
            judge_of_family.judge_gate(gate, ports, marks)
    if family == "v6":
        judge_of_family.judge_icmpv6()
    return judge_of_family.judgement


class _Judge:
    def __init__(self, chains: Sequence[BaseChain], family: str) -> None:
        self.walk = Walk(chains)
        self.judgement = Judgement([], [])
        self._family = family
        self._outside = EVERYWHERE[family]
        for network in _NOT_FROM_OUTSIDE[family]:
            self._outside = without(self._outside, of_network(network))

    def problem(self, sentence: str) -> None:
        self._say(self.judgement.problems, sentence)

    def remark(self, sentence: str) -> None:
        self._say(self.judgement.remarks, sentence)

    def _say(self, place: list[str], sentence: str) -> None:
        sentence = "%s: %s" % ("IPv6" if self._family == "v6" else "IPv4", sentence)
        if sentence not in place:
            place.append(sentence)

    # --- a gate ------------------------------------------------------------------------------------------------------

    def judge_gate(self, gate: Gate, ports: Ports, marks: int) -> None:
        name = str(ports)
        dport: Spans = ((ports.first, ports.last),)
        kind = Packet(self._family, ports.protocol, "NEW", dport, "SYN" if ports.protocol == "tcp" else "")
        allowed: Spans = ()
        for network in gate.allowed(self._family):
            allowed = joined(allowed, of_network(network))
        strangers = without(self._outside, allowed)

        self._judge_strangers(kind, ports, strangers, gate, marks)
        self._judge_ways_in(kind, ports, list(self._ways_in(gate, dport, strangers)))

        session = kind._replace(state="ESTABLISHED", flags="ACK" if ports.protocol == "tcp" else "")
        start = Packets(self._outside, dport, _CALLERS_PORTS)
        answer = self._answer(session, start, 0, "running sessions of %s live on" % name)
        if not answer.is_ban:
            self._judge_refusal(answer.refusal, "running sessions of %s end: %s decides.", "running sessions of", name)

        home = Packets(of_network(_LOOPBACK[self._family]), dport, _CALLERS_PORTS)
        answer = self._answer(kind._replace(interface="lo"), home, 0, "the host itself reaches %s" % name)
        self._judge_refusal(
            answer.refusal, "the host itself does not reach %s: %s decides.", "the host itself at", name
        )

    def _judge_refusal(self, refusal: Packets | None, sentence: str, who: str, name: str) -> None:
        if refusal and refusal.doubt == YES:
            self.problem(sentence % (name, refusal.by))
        elif refusal:
            self.remark("%s may refuse %s %s: that cannot be known from its text." % (refusal.by, who, name))

    def _judge_strangers(self, kind: Packet, ports: Ports, strangers: Spans, gate: Gate, marks: int) -> None:
        if not strangers:
            return
        cases = [("a stranger", 0, 0)]
        if marks & ~gate.mark:
            cases.append(("a stranger who has knocked elsewhere", 0, marks & ~gate.mark))
        cases.append(("a stranger whose packets carry a foreign mark", _FOREIGN_MARK, 0))
        known: set[str] = set()
        for who, mark, mark_set in cases:
            ways = self.walk.ways(kind, Packets(strangers, kind.ports, mark=mark), mark_set)
            if not ways.is_complete:
                self._not_judged("a stranger is kept from %s" % str(ports))
            leaks: dict[str, Packets] = {}
            for state in sorted(ways.accepted, key=lambda state: state.doubt):
                # Who opens a hole for one source means it
                if size(state.source) > 1 and state.by not in known:
                    there = leaks.setdefault(state.by, state)
                    if there.doubt == state.doubt:
                        leaks[state.by] = there._replace(dport=joined(there.dport, state.dport))
            new = list(leaks.values())
            known.update(leaks)
            for state in new[:_MOST_NAMED]:
                reaches = "reaches" if state.doubt == YES else "may reach"
                reached = _words_for(state.dport, kind.protocol)
                self.problem("%s %s %s, by %s." % (who, reaches, reached, _rule(state.by)))
            if len(new) > _MOST_NAMED:
                self.problem("%s reaches %s by %d more rules." % (who, ports, len(new) - _MOST_NAMED))

    def _ways_in(self, gate: Gate, dport: Spans, strangers: Spans) -> Iterator[_Way]:
        for network in gate.allowed(self._family):
            addresses = common(of_network(network), self._outside)
            everybody = addresses == self._outside
            if addresses:
                who = _EVERYBODY if everybody else "the allowlisted %s" % network
                yield _Way(who, False, Packets(addresses, dport, _CALLERS_PORTS))
        if gate.mark and strangers:
            yield _Way("an admitted knocker", True, Packets(strangers, dport, _CALLERS_PORTS), gate.mark)

    def _judge_ways_in(self, kind: Packet, ports: Ports, ways_in: list[_Way]) -> None:
        answers = [
            (way, self._answer(kind, way.start, way.mark_set, "%s reaches %s" % (way.who, ports))) for way in ways_in
        ]
        shut = [(way, answer.refusal) for way, answer in answers if not answer.is_open and answer.refusal]
        if shut and len(shut) == len(answers):
            deciding = list(dict.fromkeys(refusal.by for dummy, refusal in shut))
            self.problem(
                "nobody gets in to %s, %s: %s decide%s."
                % (
                    ports,
                    _not_even([way for way, dummy in shut]),
                    " and ".join(deciding[:_MOST_NAMED]),
                    "s" if len(deciding) == 1 else "",
                )
            )
            return
        for way, answer in answers:
            if not answer.refusal:
                continue
            if answer.is_ban:
                if not answer.is_open:
                    self.remark("%s is banned from %s, by %s." % (way.who, ports, answer.refusal.by))
            elif answer.refusal.doubt == YES:
                how = "reaches %s only in part" if answer.is_open else "does not reach %s"
                self.problem("%s %s: %s decides." % (way.who, how % str(ports), answer.refusal.by))
            else:
                words = (answer.refusal.by, way.who, str(ports))
                self.remark("%s may refuse %s at %s: that cannot be known from its text." % words)

    def _answer(self, kind: Packet, start: Packets, mark_set: int, claim: str) -> _Answer:
        """Whether all of these packets get in, but for bans of single sources and of parts of networks."""
        ways = self.walk.ways(kind, start, mark_set)
        if not ways.is_complete:
            self._not_judged(claim)
            return _Answer(True)
        accepted = [state for state in ways.accepted if state.doubt <= LIKELY]
        for state in ways.refused:
            if state.doubt == YES and not state.is_named and _left_of(state, accepted):
                return _Answer(bool(accepted), state)
        if not accepted:
            banned = next((state for state in ways.refused if state.doubt == YES), None)
            return _Answer(False, banned, is_ban=size(start.source) == 1)
        for state in ways.refused:
            if state.doubt == LIKELY and not state.is_named:
                return _Answer(True, state)
        return _Answer(True)

    def _not_judged(self, claim: str) -> None:
        self.remark("not judged whether %s: there are too many ways through the rules." % claim)

    # --- what IPv6 needs ---------------------------------------------------------------------------------------------

    def judge_icmpv6(self) -> None:
        for number, state, name in _NEEDED_OF_ICMPV6:
            kind = Packet(self._family, "ipv6-icmp", state, icmp_type=number)
            answer = self._answer(kind, Packets(self._outside, kind.ports), 0, "%s come in" % name)
            if answer.refusal and answer.refusal.doubt == YES and not answer.is_ban:
                by = answer.refusal.by
                words = (name, by)
                if number == 134 and "-type 134" in by:
                    self.remark("%s do not come in: %s decides." % words)
                else:
                    self.problem("%s do not come in, and without them IPv6 does not work: %s decides." % words)


def _rule(by: str) -> str:
    return "rule " + by if by.startswith("`") else by


def _not_even(ways: list[_Way]) -> str:
    if any(way.who == _EVERYBODY for way in ways):
        return "which is to be open to all"
    knocks = sum(way.is_knock for way in ways)
    if knocks == len(ways):
        return "not even a knocker"
    return "neither the allowlist nor a knocker" if knocks else "not even the allowlist"


def _words_for(dport: Spans, protocol: str) -> str:
    return " and ".join(str(Ports(first, last, protocol)) for first, last in dport)


def _left_of(state: Packets, covers: list[Packets]) -> bool:
    """Whether some of these packets are in none of the others."""
    left = [(state.source, state.dport, state.sport)]
    for cover in covers:
        remaining = []
        for source, dport, sport in left:
            inside = (common(source, cover.source), common(dport, cover.dport), common(sport, cover.sport))
            if not all(inside):
                remaining.append((source, dport, sport))
                continue
            pieces = (
                (without(source, cover.source), dport, sport),
                (inside[0], without(dport, cover.dport), sport),
                (inside[0], inside[1], without(sport, cover.sport)),
            )
            remaining += [piece for piece in pieces if all(piece)]
        left = remaining
    return bool(left)
