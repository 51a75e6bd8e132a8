# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads base chains of nftables for the judge, from what `nft --json` lists.

Each match is put into the words of iptables, which `_match` reads: so both are judged by one set of answers. What has
no such words counts as a match that cannot be known. Everything here is pure.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence, Tuple

from ._bytes import carried
from ._match import Rule, read
from ._walk import BaseChain

Listing = Sequence[Mapping[str, Any]]
"""The `nftables` array."""

_FAMILIES = {"v4": ("ip", "inet"), "v6": ("ip6", "inet")}
_ICMPV6 = {
    **{"destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4},
    **{"echo-request": 128, "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131},
    **{"mld-listener-done": 132, "mld-listener-reduction": 132, "nd-router-solicit": 133, "nd-router-advert": 134},
    **{"nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138},
    **{"ind-neighbor-solicit": 141, "ind-neighbor-advert": 142, "mld2-listener-report": 143},
}
_SILENT = (
    *("continue", "counter", "log", "comment", "notrack", "flow", "set", "map", "dup", "secmark"),
    *("ct helper", "ct timeout", "ct expectation"),
)
"""Statements that decide nothing, and do not ask anything of a packet."""
_VERDICTS = {"accept": "ACCEPT", "drop": "DROP", "reject": "REJECT", "return": "RETURN", "queue": "NFQUEUE"}

_ALWAYS, _UNKNOWN, _LIKELY, _UNLIKELY = (
    "",
    "-m unknown %s --unknown",
    "-m limit --limit 1",
    "-m limit --hashlimit-above 1",
)

_MOST_COMBINED = 4096
"""Elements of a concatenation that are read one by one; more are one match that cannot be known."""

_Sets = Mapping[Tuple[str, str, str], Sequence[Any]]
"""The elements of named sets and maps that do not change by themselves, by family, table and name."""


class Texts(NamedTuple):
    """Rules as people write them, by family, table and handle."""

    by_handle: Mapping[tuple[str, str, int], str]

    @classmethod
    def of(cls, listing: str) -> Texts:
        """From what `nft --handle list ruleset` prints."""
        found, table = {}, ("", "")
        for line in carried(listing).split("\n"):
            head = re.match(r"table (\S+) (\S+) \{", line)
            rule = re.match(r"\s+(.*) # handle (\d+)$", line)
            if head:
                table = (head.group(1), head.group(2))
            elif rule and not rule.group(1).endswith("{"):
                found[(*table, int(rule.group(2)))] = rule.group(1)
        return cls(found)


def native_chains(
    listing: Listing,
    texts: Texts,
    family: str,
    main: str = "",
    without: Iterable[str] = (),
    at: tuple[str, str] = ("filter", "input"),
) -> list[BaseChain]:
    """The chains of a type and hook, `at`, that packets of a family, `v4` or `v6`, meet.

    The one that lets in is the chain `input` of table `main`; tables of `without` are not read. Both as `inet filter`.
    """
    left_out = set(without)
    updated = {place for entry in listing if "rule" in entry for place in _updated(entry["rule"])}
    sets: dict[tuple[str, str, str], Sequence[Any]] = {}
    rules: dict[str, dict[str, list[Rule]]] = {}
    for kind, entry in (item for thing in listing for item in thing.items()):
        table = "%s %s" % (entry.get("family"), entry.get("table"))
        if entry.get("family") not in _FAMILIES[family] or table in left_out:
            continue
        if kind in ("set", "map") and not _changes(entry, updated):
            sets[entry["family"], entry["table"], entry["name"]] = entry.get("elem", [])
        elif kind == "chain":
            rules.setdefault(table, {}).setdefault(entry["name"], [])
        elif kind == "rule":
            text = texts.by_handle.get((entry["family"], entry["table"], entry.get("handle", 0)), "a rule")
            chain = rules.setdefault(table, {}).setdefault(entry["chain"], [])
            chain += _read(entry, text, family, sets)
    found = []
    for entry in (thing["chain"] for thing in listing if "chain" in thing):
        table = "%s %s" % (entry["family"], entry["table"])
        if table in rules and (entry.get("type"), entry.get("hook")) == at:
            is_main = (table, entry["name"]) == (main, "input")
            accepts = entry.get("policy", "accept") != "drop"
            found.append(
                BaseChain(entry["name"], "table " + table, entry.get("prio", 0), accepts, rules[table], is_main)
            )
    return found


def _read(entry: Mapping[str, Any], text: str, family: str, sets: _Sets) -> list[Rule]:
    try:
        return _Reader(entry, text, family, sets).rules()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # a form that no nft of today lists
        return _Reader({**entry, "expr": ["unknown", {"vmap": {}}]}, text, family, sets).rules()


class _Reader:
    """One rule of nftables, which may be several of iptables."""

    def __init__(self, entry: Mapping[str, Any], text: str, family: str, sets: _Sets) -> None:
        self._entry = entry
        self._text = text
        self._family = family
        self._sets = sets
        self._matches: list[list[str]] = []
        """For each match the words that say it: one of them has to hold."""

    def rules(self) -> list[Rule]:
        found: list[Rule] = []
        for step in self._entry.get("expr", []):
            name, argument = _statement(step)
            if name == "match":
                words = self._words(argument["op"], argument["left"], argument["right"])
                if words is None:
                    break
                self._matches.append(words)
            elif name == "limit":
                self._matches.append([_UNLIKELY if argument.get("inv") else _LIKELY])
            elif name == "mangle":
                if argument.get("key") == _MARK:
                    found += self._emit("-j MARK " + _marking(argument.get("value")))
            elif name == "vmap":
                found += self._map(argument)
            elif name in ("dnat", "redirect"):
                found += self._emit("-j DNAT", *self._lookups(argument or {}))
            elif name == "xt":  # iptables' own: a target, or a match of which the listing has only the name
                xt = argument or {}
                if xt.get("type") == "target":
                    found += self._emit("-j " + xt["name"])
                elif xt.get("name") != "comment":
                    self._matches.append([_UNKNOWN % ""])
            elif name in ("jump", "goto"):
                found += self._emit("-%s %s" % (name[0], argument["target"]))
            elif name in _VERDICTS:
                found += self._emit("-j " + _VERDICTS[name])
            elif name not in _SILENT:
                self._matches.append([_UNKNOWN % ""])
        return found

    def _emit(self, target: str, *more: list[str]) -> list[Rule]:
        chain = self._entry["chain"]
        found = []
        for words in product(*self._matches, *more):
            rule = read(" ".join(["-A", chain, *filter(None, words), target]), self._family)
            rule.text, rule.place = self._text, " of chain %s" % chain
            found.append(rule)
        return found

    def _map(self, mapping: Mapping[str, Any]) -> list[Rule]:
        entries = self._entries(mapping)
        if entries is None:
            return self._emit("-j NAMED-MAP")  # somebody else decides
        found = []
        for words, verdict in entries:
            name, argument = _statement(verdict)
            target = "-%s %s" % (name[0], argument["target"]) if name in ("jump", "goto") else ""
            found += self._emit(target or "-j %s" % _VERDICTS.get(name, "NAMED-MAP"), words)
        return found

    def _lookups(self, argument: Mapping[str, Any]) -> list[list[str]]:
        """The words of the keys of each map that is asked for where to send a packet: one that has no such key is sent
        nowhere."""
        found = []
        for value in argument.values():
            if isinstance(value, dict) and "map" in value:
                entries = self._entries(value["map"])
                unknown = [_UNKNOWN % ""]
                found.append(unknown if entries is None else [word for words, dummy in entries for word in words])
        return found

    def _entries(self, mapping: Mapping[str, Any]) -> list[tuple[list[str], Any]] | None:
        """What a map says: the words of each key, and its value; None where that is not known."""
        data = mapping.get("data")
        if isinstance(data, str) and data.startswith("@"):
            pairs = self._sets.get((self._entry["family"], self._entry["table"], data[1:]))
        else:
            pairs = data.get("set") if isinstance(data, dict) else None
        if pairs is None:
            return None
        read_keys = ((self._words("==", mapping["key"], {"set": [key]}), value) for key, value in pairs)
        return [(words, value) for words, value in read_keys if words is not None]

    # --- a match -----------------------------------------------------------------------------------------------------

    def _words(self, operator: str, left: Any, right: Any) -> list[str] | None:
        """The alternatives that say it; None if no packet of the family ever matches."""
        is_not = operator == "!="
        values = self._values(right) if operator in ("==", "in", "!=") else _span(operator, right)
        unknown = [_UNKNOWN % ("!" if is_not else "")]
        (kind, about), mask = _statement(left), None
        if kind == "&" and isinstance(about[0], dict):
            (kind, about), mask = _statement(about[0]), about[1]
        if kind == "concat" and not is_not and values is not None and len(values) <= _MOST_COMBINED:
            return self._combined(about, values)
        if not isinstance(about, dict):
            return unknown
        protocol, field = about.get("protocol", ""), about.get("field", about.get("key", ""))
        needs = {"ip": "v4", "icmp": "v4", "ip6": "v6", "icmpv6": "v6"}.get(protocol, self._family)
        if needs != self._family:
            return None
        if kind == "payload" and field == "flags" and protocol == "tcp":
            return _flags(is_not, mask, right)
        if values is None or (mask is not None and left != {"&": [_MARK, mask]}):
            return _of_protocol(protocol, unknown)
        if kind == "meta" and field == "nfproto":
            return [_ALWAYS] if ("ip" + self._family in values) != is_not else None
        if kind == "meta" and field == "mark":
            return _each("-m mark", "--mark", ["%s/%s" % (value, mask or 0xFFFFFFFF) for value in values], is_not)
        if kind == "payload" and protocol == "icmpv6" and field == "type":
            return _each("-p ipv6-icmp -m icmp6", "--icmpv6-type", _numbers(values), is_not)
        for (kinds, protocols, fields), (before, option, separator, spell) in _SPELLED.items():
            if kind == kinds and protocol in protocols and field in fields:
                spelled = [spell(value) for value in values]
                prefix = before % {"protocol": protocol} if protocol != "th" else before.replace("-p %(protocol)s ", "")
                if separator:
                    return [" ".join([prefix, "!" if is_not else "", option, separator.join(spelled)])]
                return _each(prefix, option, spelled, is_not)
        if kind == "fib" and values == ["local"] and about.get("flags") == ["daddr"]:
            return ["-m addrtype %s --dst-type LOCAL" % ("!" if is_not else "")]
        if field in ("hoplimit", "ttl", "length", "time", "hour", "day"):
            return _of_protocol(protocol, [_LIKELY])
        if kind == "ct" and field == "status" and {"dnat", "snat"} & set(map(str, values)):
            return ["-m conntrack %s --ctstate DNAT" % ("!" if is_not else "")]
        return _of_protocol(protocol, unknown)

    def _combined(self, fields: Sequence[Any], values: Sequence[Any]) -> list[str] | None:
        """`ip daddr . tcp dport`: each element says something about each field."""
        found = []
        for value in values:
            parts = [self._words("==", field, part) for field, part in zip(fields, value["concat"])]
            if None not in parts:
                found += [" ".join(words) for words in product(*filter(None, parts))]
        return found or None

    def _values(self, right: Any) -> list[Any] | None:
        """What the right side lists; None where that is not known."""
        if isinstance(right, str) and right.startswith("@"):
            known = self._sets.get((self._entry["family"], self._entry["table"], right[1:]))
            if known is None:
                return None
            right = {"set": known}
        values = right["set"] if isinstance(right, dict) and "set" in right else right
        values = values if isinstance(values, list) else [values]
        return [value["elem"].get("val") if isinstance(value, dict) and "elem" in value else value for value in values]


_MARK = {"meta": {"key": "mark"}}


def _changes(named: Mapping[str, Any], updated: set[tuple[str, str, str]]) -> bool:
    """Whether a set or map changes by itself: its flags say so, or a rule adds to it.

    A single flag is a word in some versions of nft, and 1.0.6 lists no `dynamic`.
    """
    flags = named.get("flags", [])
    is_passing = bool({"timeout", "dynamic"} & set(flags if isinstance(flags, list) else [flags]))
    return is_passing or (named["family"], named["table"], named["name"]) in updated


def _updated(rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The sets and maps that a rule adds to; what adds to a map is listed as text by some versions of nft."""
    for step in rule.get("expr", []):
        name, argument = _statement(step)
        found = re.match(r"(?:add|update|delete) @(\S+)", name)
        place = argument.get(name, "") if name in ("set", "map") and isinstance(argument, dict) else ""
        if found or str(place).startswith("@"):
            yield rule["family"], rule["table"], found.group(1) if found else place[1:]


def _statement(step: Any) -> tuple[str, Any]:
    """`{"jump": {"target": "x"}}` as a pair; what has no argument is a word in some versions."""
    return next(iter(step.items())) if isinstance(step, dict) and step else (str(step), None)


def _marking(value: Any) -> str:
    if isinstance(value, int):
        return "--set-xmark %d/0xffffffff" % value
    operator, operands = _statement(value)
    option = {"&": "--and-mark", "|": "--or-mark", "^": "--xor-mark"}.get(operator)
    if option and operands[0] == _MARK and isinstance(operands[1], int):
        return "%s %d" % (option, operands[1])
    return "--unknown"


def _each(before: str, option: str, values: Iterable[Any], is_not: bool) -> list[str]:
    """One alternative for each value; or, negated, all of them in one."""
    if is_not:
        return [" ".join([before, *("! %s %s" % (option, value) for value in values)])]
    return ["%s %s %s" % (before, option, value) for value in values]


def _of_protocol(protocol: str, words: list[str]) -> list[str]:
    """What cannot be known of a header is not true of other protocols for sure."""
    names = {"tcp": "tcp", "udp": "udp", "icmp": "icmp", "icmpv6": "ipv6-icmp", "sctp": "sctp", "dccp": "dccp"}
    return ["-p %s %s" % (names[protocol], word) for word in words] if protocol in names else words


def _flags(is_not: bool, mask: Any, right: Any) -> list[str]:
    before = "-p tcp -m tcp"
    if mask is None:  # `tcp flags syn`: one of these is set
        return ["%s %s --tcp-flags %s %s" % (before, "!" if is_not else "", flag, flag) for flag in _names(right)]
    masked, wanted = ",".join(_names(mask)), ",".join(_names(right)) or "NONE"
    return ["%s %s --tcp-flags %s %s" % (before, "!" if is_not else "", masked, wanted)]


def _names(flags: Any) -> list[str]:
    """`["fin", "syn"]`, `"syn"`, or the same with bars between, depending on the version of nft."""
    if isinstance(flags, dict):
        flags = [name for side in flags.get("|", []) for name in _names(side)]
    return [str(flag).upper() for flag in ([flags] if isinstance(flags, (str, int)) else flags) if flag != 0]


def _numbers(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        ends = value["range"] if isinstance(value, dict) and "range" in value else [value, value]
        first, last = (_ICMPV6.get(end, end) for end in ends)
        is_span = isinstance(first, int) and isinstance(last, int)
        found += range(first, last + 1) if is_span else [first]
    return found


def _span(operator: str, right: Any) -> list[Any] | None:
    """The ports of a comparison."""
    if not isinstance(right, int):
        return None
    ends = {"<": [0, right - 1], "<=": [0, right], ">": [right + 1, 65535], ">=": [right, 65535]}.get(operator)
    return [{"range": ends}] if ends else None


def _address(value: Any) -> str:
    if isinstance(value, dict) and "prefix" in value:
        return "%s/%s" % (value["prefix"]["addr"], value["prefix"]["len"])
    return "-".join(value["range"]) if isinstance(value, dict) and "range" in value else str(value)


def _ports(value: Any) -> str:
    return ":".join(map(str, value["range"])) if isinstance(value, dict) and "range" in value else str(value)


def _interface(value: Any) -> str:
    return re.sub(r"\*$", "+", str(value))


_IP, _TRANSPORT = ("ip", "ip6"), ("tcp", "udp", "th", "sctp", "dccp")
_SPELLED: dict[tuple[str, tuple[str, ...], tuple[str, ...]], tuple[str, str, str, Any]] = {
    # Kind, protocols, fields: what stands before, the option, what joins its values (or each is one alternative)
    ("payload", _IP, ("saddr",)): ("", "-s", ",", _address),
    ("payload", _IP, ("daddr",)): ("", "-d", "", _address),
    ("payload", _IP, ("protocol", "nexthdr")): ("", "-p", "", str),
    ("payload", _TRANSPORT, ("dport",)): ("-p %(protocol)s -m multiport", "--dports", ",", _ports),
    ("payload", _TRANSPORT, ("sport",)): ("-p %(protocol)s -m multiport", "--sports", ",", _ports),
    ("meta", ("",), ("l4proto",)): ("", "-p", "", str),
    ("meta", ("",), ("iif", "iifname")): ("", "-i", "", _interface),
    ("meta", ("",), ("oif", "oifname")): ("", "-o", "", _interface),
    ("ct", ("",), ("proto-dst",)): ("-m conntrack", "--ctorigdstport", ",", _ports),
    ("ct", ("",), ("state",)): ("-m conntrack", "--ctstate", ",", lambda value: str(value).upper()),
}
