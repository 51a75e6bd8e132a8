# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds protected ports that DNAT or REDIRECT sends elsewhere: such packets pass FORWARD, or INPUT with another port.

A rule that cannot be read counts as one that covers the port: to find too much stops a play, to find too little leaves
a port open. Everything here is pure: tables, the listing of nft and addresses in, findings out.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Sequence

from ._match import LIKELY, NO, YES, Packet, Rule, match_mark, read
from ._native_rules import Listing, Texts, native_chains
from ._rules import Ports, Table
from ._spans import Spans, common, joined, without
from ._walk import MARKING, PASSING, QUEUES, REFUSING

_SENDING = ("DNAT", "REDIRECT", "NETMAP")
_STAYING = ("ACCEPT", *REFUSING)
"""Targets that end the search: what they match is not sent elsewhere."""
_IGNORED = (*PASSING, *MARKING, *QUEUES, "SNAT", "MASQUERADE")
"""Targets after which the next rule decides. A program that takes packets from a queue may hand them back."""


class Published(NamedTuple):
    """A protected port that is sent elsewhere before INPUT sees it."""

    ports: str
    rule: str
    is_certain: bool = True
    """False if it cannot be known from the rules' text."""


def published(nat: Table | None, family: str, protected: Sequence[Ports], here: Spans = ()) -> list[Published]:
    """Which of the ports the table nat of one iptables takes away. `here` are the host's addresses, if known."""
    if nat is None:
        return []
    rules: dict[str, list[Rule]] = {chain: [] for chain in ("PREROUTING", *nat.chains)}
    for text in nat.rules:
        rule = read(text, family)
        rules.setdefault(rule.chain, []).append(rule)
    return _search(rules, "PREROUTING", family, protected, here)


def published_by_nftables(
    listing: Listing,
    protected: Sequence[Ports],
    here: Mapping[str, Spans],
    known: Sequence[str] = (),
) -> list[Published]:
    """The same for the chains of nftables, from `nft --json list ruleset`, but those `known` (`ip nat PREROUTING`)."""
    texts = Texts({_place(entry): _words(entry) for entry in (item["rule"] for item in listing if "rule" in item)})
    found = []
    for family in ("v4", "v6"):
        for chain in native_chains(listing, texts, family, at=("nat", "prerouting")):
            if "%s %s" % (chain.table, chain.name) in ["table " + each for each in known]:
                continue
            found += _search(chain.rules, chain.name, family, protected, here.get(family, ()))
    return list(dict.fromkeys(found))


def _place(rule: Mapping[str, Any]) -> tuple[str, str, int]:
    return rule["family"], rule["table"], rule.get("handle", 0)


def _words(rule: Mapping[str, Any]) -> str:
    return "rule with handle %s in nftables chain %s %s %s" % (
        rule.get("handle"),
        rule["family"],
        rule["table"],
        rule["chain"],
    )


def _search(
    rules: Mapping[str, Sequence[Rule]], chain: str, family: str, protected: Sequence[Ports], here: Spans
) -> list[Published]:
    found: dict[tuple[str, str], bool] = {}
    for ports in protected:
        kind = Packet(family, ports.protocol, "NEW", ((ports.first, ports.last),))
        kind = kind._replace(flags="SYN" if ports.protocol == "tcp" else "")
        # An address that is not the host's now may be so later (one that two hosts share), so a rule that names the
        # port counts whatever the address; one that names none is about an address of somebody else
        for search in (_Search(rules, kind._replace(destinations=here), False), _Search(rules, kind, True)):
            search.walk(chain, kind.ports, False, YES)
            for text, is_certain in search.found.items():
                found[str(ports), text] = is_certain or found.get((str(ports), text), False)
    return [Published(*place, is_certain) for place, is_certain in found.items()]


class _Search:
    """Follows connections of one kind through the chains, and notes the rules that send them elsewhere."""

    def __init__(self, rules: Mapping[str, Sequence[Rule]], kind: Packet, has_to_name: bool) -> None:
        self._rules = rules
        self._kind = kind
        self._has_to_name = has_to_name
        """Whether only those count that are led there by the port."""
        self._walked: dict[tuple[str, Spans, bool, int], Spans] = {}
        self.found: dict[str, bool] = {}
        """The text of a rule, and whether it is certain."""

    def walk(self, chain: str, ports: Spans, is_named: bool, doubt: int) -> Spans:
        """Returns the ports of which some packets may come out of the chain undecided."""
        place = (chain, ports, is_named, doubt)
        if place not in self._walked:
            self._walked[place] = ports  # for a loop, which no kernel takes
            self._walked[place] = self._walk(chain, ports, is_named, doubt)
        return self._walked[place]

    def _walk(self, chain: str, ports: Spans, is_named: bool, doubt: int) -> Spans:
        returned: Spans = ()
        for rule in self._rules.get(chain, ()):
            answer = self._judge(rule)
            hit = ports if rule.dport is None else common(ports, rule.dport)
            if answer == NO or not hit:
                continue
            decided: Spans = hit
            if rule.target in self._rules:
                out = self.walk(rule.target, hit, is_named or rule.dport is not None, max(doubt, answer))
                decided = hit if rule.is_goto else without(hit, out)
                returned = joined(returned, out) if rule.is_goto else returned
            elif rule.target == "RETURN":
                returned = joined(returned, hit)
            elif rule.target in _IGNORED:
                continue
            elif rule.target not in _STAYING and (is_named or rule.dport is not None or not self._has_to_name):
                is_certain = max(doubt, answer) <= LIKELY and rule.target in _SENDING
                self.found[rule.text] = self.found.get(rule.text, False) or is_certain
            if answer == YES and rule.source is None and rule.sport is None:
                ports = without(ports, decided)
        return joined(returned, ports)

    def _judge(self, rule: Rule) -> int:
        """Whether the rule matches. A mark that comes from an earlier hook is not known."""
        if rule.source == () or rule.sport == ():
            return NO
        answers = [rule.judge(self._kind), *(match_mark(0, 0, wanted) for wanted in rule.marks)]
        return NO if NO in answers else max(answers)
