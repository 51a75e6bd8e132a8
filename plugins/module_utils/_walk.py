# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leads sets of packets through the chains that they meet on their way in, on every way that a match we cannot read
leaves open.

A packet has to pass all base chains, in the order of their priorities: an accept ends one chain, a drop ends all.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Sequence

from ._match import LIKELY, NO, UNLIKELY, YES, Packet, Rule, match_mark, new_mark, read
from ._rules import Table
from ._spans import PORTS, Spans, common, joined, size, without

PRIORITIES = {"mangle": -150, "filter": 0, "security": 50}
"""The tables whose INPUT chains a packet meets."""
_DAEMON = -5
"""Where the knock daemon marks what it has admitted."""

REFUSING = ("DROP", "REJECT", "TARPIT", "DELUDE", "CHAOS", "STEAL")
QUEUES = ("QUEUE", "NFQUEUE")
MARKING = ("MARK", "CONNMARK")
PASSING = (
    *("", "AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "CT", "DSCP", "ECN", "HL", "IDLETIMER", "LED", "LOG"),
    *("NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG"),
)
_DEEPEST = 100
_STEPS = 300_000
_MOST_SPANS_KEPT = 64


class TooManyWays(Exception):
    """The rules have more ways through them than we follow."""


class Packets(NamedTuple):
    """Packets of a kind that have come the same way so far."""

    source: Spans
    dport: Spans
    sport: Spans = PORTS
    mark: int = 0
    known: int = 0xFFFFFFFF
    """The bits of the mark that are known."""
    doubt: int = YES
    """YES if they come here for sure; LIKELY or UNLIKELY if a rule that we cannot read had to match."""
    is_named: bool = False
    """Whether a rule has picked these sources out by name."""
    returned_by: str = ""
    by: str = ""
    """What decided about them, in words."""


class Ways(NamedTuple):
    """Where packets end."""

    accepted: list[Packets]
    refused: list[Packets]
    is_complete: bool
    """False if there were too many ways; what is listed is true all the same."""


class Step(NamedTuple):
    """A rule, as far as one kind of packets is concerned. Sets are None where all of them are in it."""

    rule: Rule
    doubt: int
    dport: Spans | None


class BaseChain(NamedTuple):
    """A chain that packets meet on their way in, and those that it leads to."""

    name: str
    table: str
    """In words: `the filter table`."""
    priority: int
    accepts: bool
    """Its policy."""
    rules: Mapping[str, Sequence[Rule]]
    """By chain."""
    is_main: bool
    """Whether it is the one that lets in: behind it, and before, only a refusal is worth a word."""


def base_chains(tables: Mapping[str, Table], family: str) -> list[BaseChain]:
    """Those of iptables."""
    found = []
    for name, priority in PRIORITIES.items():
        if name not in tables:
            continue
        rules: dict[str, list[Rule]] = {chain: [] for chain in ("INPUT", *tables[name].chains)}
        for text in tables[name].rules:
            rule = read(text, family)
            rules.setdefault(rule.chain, []).append(rule)
        accepts = tables[name].chains.get("INPUT") != "DROP"
        found.append(BaseChain("INPUT", "the %s table" % name, priority, accepts, rules, name == "filter"))
    return found


class Walk:
    """The rules of one family, read once for many walks."""

    def __init__(self, chains: Sequence[BaseChain]) -> None:
        self._stages = [_Stage(chain) for chain in sorted(chains, key=lambda chain: chain.priority)]

    def loop(self) -> tuple[str, str] | None:
        """A rule, and its table in words, that leads back to a chain that led to it."""
        for stage in self._stages:
            found = stage.loop()
            if found:
                return found, stage.base.table
        return None

    def ways(self, kind: Packet, start: Packets, mark_set: int = 0) -> Ways:
        """Where these packets end, if the daemon sets a mark on them."""
        states, is_complete = [start], True
        refused: list[Packets] = []
        for stage in self._stages:
            if stage.base.priority > _DAEMON and mark_set:
                states = [state._replace(mark=state.mark | mark_set, known=state.known | mark_set) for state in states]
                mark_set = 0
            if stage.base.is_main:  # an accept before decides nothing
                states = _merged([state._replace(is_named=False, returned_by="", by="") for state in states])
            ways = stage.ways(kind, states)
            states = ways.accepted
            refused += ways.refused
            is_complete = is_complete and ways.is_complete
        if not any(stage.base.is_main for stage in self._stages):
            states = [state._replace(by="the missing filter table") for state in states]
        return Ways(states, refused, is_complete)


class _Stage:
    """One base chain. Its steps are kept for the kind of packets that was asked for last."""

    def __init__(self, base: BaseChain) -> None:
        self.base = base
        self._rules = base.rules
        self._kind: Packet | None = None
        self._steps: dict[str, list[Step]] = {}
        self._left = 0
        self._walked: dict[tuple[str, Packets], list[Packets]] = {}
        self._accepted: list[Packets] = []
        self._refused: list[Packets] = []

    def loop(self) -> str:
        done: set[str] = set()

        def search(chain: str, above: tuple[str, ...]) -> str:
            for rule in self._rules[chain]:
                if rule.target in above:
                    return rule.text
                if rule.target in self._rules and rule.target not in done and len(above) < _DEEPEST:
                    found = search(rule.target, (*above, rule.target))
                    if found:
                        return found
            done.add(chain)
            return ""

        return search(self.base.name, (self.base.name,))

    def ways(self, kind: Packet, states: list[Packets]) -> Ways:
        if kind != self._kind:
            self._kind, self._steps = kind, {}
        self._left, self._accepted, self._refused, self._walked = _STEPS, [], [], {}
        try:
            policy = "the policy %s of %s" % ("ACCEPT" if self.base.accepts else "DROP", self.base.name)
            for state in self._walk(self.base.name, states, 0):
                self._end(state, policy, self.base.accepts)
        except TooManyWays:
            return Ways(self._accepted, self._refused, False)
        return Ways(self._accepted, self._refused, True)

    def _end(self, state: Packets, by: str, is_accepted: bool) -> None:
        words = "%s of %s" % (by, self.base.table)
        if is_accepted:
            words += ", after `%s`" % state.returned_by if state.returned_by else ""
            words = words if self.base.is_main else state.by or words
        (self._accepted if is_accepted else self._refused).append(state._replace(by=words))

    def _steps_of(self, chain: str) -> list[Step]:
        if chain not in self._steps and self._kind:
            steps = (self._step(rule, self._kind) for rule in self._rules[chain])
            self._steps[chain] = [step for step in steps if step is not None]
        return self._steps[chain]

    def _step(self, rule: Rule, kind: Packet) -> Step | None:
        """None if the rule never does anything to such packets."""
        doubt = rule.judge(kind)
        if doubt == NO or (rule.target in PASSING and rule.target not in self._rules):
            return None
        dport = None if rule.dport is None else common(rule.dport, kind.ports)
        if dport == () or rule.source == () or rule.sport == ():
            return None
        return Step(rule, doubt, None if dport == kind.ports else dport)

    def _walk(self, chain: str, states: list[Packets], depth: int) -> list[Packets]:
        """What comes out of the chain undecided."""
        if depth > _DEEPEST:
            raise TooManyWays
        returned: list[Packets] = []
        for step in self._steps_of(chain):
            going_on: list[Packets] = []
            for state in states:
                self._left -= 1 + (len(state.source) >> 9)
                inside, outside = _split(step, state)
                going_on += outside
                if inside is not None:
                    going, back = self._act(step, inside, state.is_named, depth)
                    going_on += going
                    returned += back
            if self._left < 0:
                raise TooManyWays
            states = _merged(going_on)
            if not states:
                break
        return _merged(returned + states)

    def _known_walk(self, chain: str, state: Packets, depth: int) -> list[Packets]:
        """What comes out of a chain. The same packets end the same way when they come again, and need not be walked."""
        if len(state.source) > _MOST_SPANS_KEPT:
            return self._walk(chain, [state], depth)
        if (chain, state) not in self._walked:
            self._walked[chain, state] = self._walk(chain, [state], depth)
        return self._walked[chain, state]

    def _act(self, step: Step, state: Packets, was_named: bool, depth: int) -> tuple[list[Packets], list[Packets]]:
        """What the rule does to those that match: who goes on in this chain, and who goes back to the caller."""
        rule = step.rule
        by = "`%s`%s" % (rule.text, rule.place)
        if rule.target in self._rules:
            below = self._known_walk(rule.target, state, depth + 1)
            below = [out._replace(is_named=was_named) for out in below]
            return ([], below) if rule.is_goto else (below, [])
        if rule.target == "RETURN":
            return [], [state._replace(returned_by=rule.text) if rule.asks else state]
        if rule.target in MARKING:
            mark, known = new_mark(rule, state.mark, state.known)
            return [state._replace(mark=mark, known=known, is_named=was_named)], []
        if rule.target == "ACCEPT" or rule.target in REFUSING:
            self._end(state, by, rule.target == "ACCEPT")
            return [], []
        # Somebody else decides
        is_queue = rule.target in QUEUES
        asked = state._replace(doubt=max(state.doubt, LIKELY if is_queue else UNLIKELY))
        self._end(asked, by, True)
        self._end(asked, by, False)
        return [] if is_queue else [state._replace(is_named=was_named)], []


def _split(step: Step, state: Packets) -> tuple[Packets | None, list[Packets]]:
    """Those that match the rule, and those that go on."""
    rule, doubt = step.rule, step.doubt
    for wanted in rule.marks:
        answer = match_mark(state.mark, state.known, wanted)
        if answer == NO:
            return None, [state]
        doubt = max(doubt, answer)
    inside, outside = state, []
    if rule.source is not None:
        source = common(state.source, rule.source)
        if not source:
            return None, [state]
        if source != state.source:
            outside.append(state._replace(source=without(state.source, rule.source)))
        if rule.names_source and (source != state.source or size(rule.source) == 1):
            inside = inside._replace(source=source, is_named=True)
        else:
            inside = inside._replace(source=source)
    if step.dport is not None:
        dport = common(state.dport, step.dport)
        if not dport:
            return None, [state]
        if dport != state.dport:
            outside.append(inside._replace(dport=without(state.dport, dport), is_named=state.is_named))
            inside = inside._replace(dport=dport)
    if rule.sport is not None:
        sport = common(state.sport, rule.sport)
        if not sport:
            return None, [state]
        if sport != state.sport:
            outside.append(inside._replace(sport=without(state.sport, sport), is_named=state.is_named))
            inside = inside._replace(sport=sport)
    if doubt == YES:
        return inside, outside
    if rule.target in MARKING:
        # Both ways go on as one, so that many such rules do not make many ways
        mark, known = new_mark(rule, inside.mark, inside.known)
        known &= inside.known & ~(mark ^ inside.mark)
        return None, [*outside, inside._replace(known=known, is_named=state.is_named)]
    return inside._replace(doubt=max(inside.doubt, doubt)), [state]


def _merged(states: list[Packets]) -> list[Packets]:
    """The same packets in as few sets as are easily found."""
    if len(states) < 2:
        return states
    by_source: dict[tuple, Packets] = {}
    for state in states:
        key = (state.dport, state.sport, state.mark & state.known, state.known, state.is_named, state.doubt)
        there = by_source.get(key)
        if there is None:
            by_source[key] = state
        elif there.source != state.source:
            by_source[key] = there._replace(source=joined(there.source, state.source))
    if len(by_source) < 2:
        return list(by_source.values())
    by_port: dict[tuple, Packets] = {}
    for state in sorted(by_source.values(), key=lambda state: state.doubt):
        same: tuple = (state.source, state.sport, state.mark & state.known, state.known, state.is_named)
        there = by_port.get(same)
        if there is None:
            by_port[same] = state
        elif there.doubt == state.doubt:
            by_port[same] = there._replace(dport=joined(there.dport, state.dport))
        elif without(state.dport, there.dport):
            by_port[(*same, state.doubt)] = state
    kept: list[Packets] = []
    for state in by_port.values():
        if state.doubt == YES or not any(_covers(surer, state) for surer in kept):
            kept.append(state)
    return kept


def _covers(surer: Packets, state: Packets) -> bool:
    """Whether packets that may be here are among those that are here all the same."""
    return (
        surer.doubt < state.doubt
        and (surer.mark & surer.known, surer.known, surer.is_named)
        == (state.mark & state.known, state.known, state.is_named)
        and not without(state.sport, surer.sport)
        and not without(state.dport, surer.dport)
        and not without(state.source, surer.source)
    )
