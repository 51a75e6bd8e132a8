# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges what decides over a new connection besides our rules: base chains of nftables, and the other iptables.

A packet has to pass all of them: an ACCEPT ends one chain only, a drop ends everything. So a chain that refuses a
protected port for sure shuts out whom we let in. Sure is what has no rule that could accept: a rule that we cannot read
could. Everything here is pure: the listing of nft and tables in, judgements out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ._rules import Ports, Table, target_of, value_of, words_of

OWN_TABLES = ("knockd", "knock_firewall")
_IPTABLES = ("filter", "mangle", "raw", "nat", "security")
_FAMILIES = {"ip": ("v4",), "ip6": ("v6",), "inet": ("v4", "v6")}
_TRANSPORTS = ("tcp", "udp", "icmp", "icmpv6", "ipv6-icmp", "igmp", "sctp", "dccp", "udplite", "esp", "ah")
_SILENT = ("counter", "log", "comment", "notrack", "mangle")
"""Statements that decide nothing."""
_DEEPEST = 16

_MAYBE, _REFUSED, _NOTHING = "maybe", "refused", ""


class BaseChain(NamedTuple):
    """A chain of somebody else's that every packet for this host meets."""

    family: str
    table: str
    chain: str
    priority: int
    policy: str
    rules: int
    refuses: list[str]
    """The protected ports to which nobody at all gets past this chain."""

    @property
    def name(self) -> str:
        return "The nftables chain %s %s %s" % (self.family, self.table, self.chain)

    @property
    def families(self) -> tuple[str, ...]:
        return _FAMILIES[self.family]


def base_chains(listing: list[dict[str, Any]], protected: list[Ports]) -> list[BaseChain]:
    """The filter chains at the input hook, of others: from the `nftables` array of `nft --json list ruleset`."""
    rules: dict[tuple[str, str, str], list[list[Any]]] = {}
    for rule in (entry["rule"] for entry in listing if "rule" in entry):
        rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
    found = []
    for chain in (entry["chain"] for entry in listing if "chain" in entry):
        family, table, name = chain["family"], chain["table"], chain["name"]
        if chain.get("hook") != "input" or chain.get("type") != "filter" or family not in _FAMILIES:
            continue
        if table in OWN_TABLES or (family in ("ip", "ip6") and name == "INPUT" and table in _IPTABLES):
            continue
        inner = {key[2]: value for key, value in rules.items() if key[:2] == (family, table)}
        policy = chain.get("policy", "accept")
        refused = [str(ports) for ports in protected if _shuts(_native(inner, name, ports), policy == "drop")]
        found.append(BaseChain(family, table, name, chain.get("prio", 0), policy, len(inner.get(name, [])), refused))
    return found


def refused_by(table: Table | None, protected: list[Ports]) -> list[str]:
    """The protected ports to which nobody gets past INPUT of a table of iptables."""
    if table is None:
        return []
    drops = table.chains.get("INPUT") == "DROP"
    return [str(ports) for ports in protected if _shuts(_text(table, "INPUT", ports), drops)]


def _shuts(outcome: str, drops: bool) -> bool:
    return outcome == _REFUSED or (outcome == _NOTHING and drops)


# --- native rules ----------------------------------------------------------------------------------------------------


def _native(chains: dict[str, list[list[Any]]], chain: str, ports: Ports, depth: int = 0) -> str:
    """What becomes of a new connection: refused for sure, maybe let in, or neither: then the caller, or the policy,
    decides over some at least."""
    some_return = False
    for steps in chains.get(chain, []):
        matches = [step["match"] for step in steps if isinstance(step, dict) and "match" in step]
        if any(_excludes(match, ports) for match in matches):
            continue
        others = [step for step in steps if isinstance(step, dict) and not {"match", *_SILENT} & set(step)]
        is_sure = all(_includes(match, ports) for match in matches) and len(others) == 1
        for step in others:
            outcome = _native_verdict(chains, step, ports, depth)
            if outcome == _MAYBE:
                return _MAYBE
            if outcome == _REFUSED and is_sure:
                return _NOTHING if some_return else _REFUSED
            if _returns(step):
                if is_sure and "vmap" not in step:
                    return _NOTHING
                some_return = True
    return _NOTHING


def _returns(step: dict[str, Any]) -> bool:
    """Whether a verdict can end the chain without a decision."""
    data = step["vmap"].get("data") if "vmap" in step else None
    listed = data.get("set", []) if isinstance(data, dict) else []
    return "return" in step or "goto" in step or any(_returns(verdict) for dummy, verdict in listed)


def _native_verdict(chains: dict[str, list[list[Any]]], step: dict[str, Any], ports: Ports, depth: int) -> str:
    if "drop" in step or "reject" in step:
        return _REFUSED
    if "jump" in step or "goto" in step:
        target = (step.get("jump") or step["goto"])["target"]
        return _native(chains, target, ports, depth + 1) if depth < _DEEPEST else _MAYBE
    if "vmap" in step:
        return _of_map(chains, step["vmap"], ports, depth)
    # `limit` and `return` accept nothing; iptables' own matches (`xt`), queues and what is still to come might
    return _NOTHING if "limit" in step or "return" in step else _MAYBE


def _of_map(chains: dict[str, list[list[Any]]], mapping: dict[str, Any], ports: Ports, depth: int) -> str:
    data = mapping.get("data")
    if not isinstance(data, dict) or "set" not in data:
        return _MAYBE  # a named map
    for value, verdict in data["set"]:
        match = {"op": "==", "left": mapping.get("key"), "right": value}
        if not _excludes(match, ports) and _native_verdict(chains, verdict, ports, depth) == _MAYBE:
            return _MAYBE
    return _NOTHING


def _excludes(match: dict[str, Any], ports: Ports) -> bool:
    """Whether a match is never met by a new connection from outside to one of the ports."""
    if match.get("op") not in ("==", "in"):
        return False
    what, values = _subject(match), _values(match.get("right"))
    if values is None:
        return False
    if what == "dport":
        return not _is_protocol(match, ports) or not any(_overlaps(value, ports) for value in values)
    if what == "protocol":
        return ports.protocol not in values
    if what == "state":
        return "new" not in values
    if what == "status":
        return values == ["dnat"]  # what was sent elsewhere on its way is no connection to the port that it asked for
    if what == "interface":
        return values == ["lo"]
    return what in _TRANSPORTS and what != ports.protocol


def _includes(match: dict[str, Any], ports: Ports) -> bool:
    """Whether a match is met by each new connection from outside to the ports."""
    what, values = _subject(match), _values(match.get("right"))
    if values is None:
        return False
    if match.get("op") == "!=":
        return what == "interface" and values == ["lo"]
    if match.get("op") not in ("==", "in"):
        return False
    if what == "dport":
        return _is_protocol(match, ports) and any(_overlaps(value, ports, whole=True) for value in values)
    return (what == "protocol" and ports.protocol in values) or (what == "state" and "new" in values)


def _is_protocol(match: dict[str, Any], ports: Ports) -> bool:
    """Whether a match of a port is about the ports' protocol; `th` is about each one."""
    return match["left"]["payload"]["protocol"] in ("th", ports.protocol)


def _subject(match: dict[str, Any]) -> str:
    """What a match is about: `dport`, `protocol`, `state`, `status`, `interface`, a transport's name; else empty."""
    left = match.get("left")
    if not isinstance(left, dict):
        return ""
    payload, meta, ct = (left.get(name, {}) for name in ("payload", "meta", "ct"))
    protocol, field = payload.get("protocol", ""), payload.get("field", "")
    if field == "dport" and protocol in ("tcp", "udp", "th"):
        return "dport"
    if (protocol, field) in (("ip", "protocol"), ("ip6", "nexthdr")) or meta.get("key") == "l4proto":
        return "protocol"
    if ct.get("key") in ("state", "status"):
        return str(ct["key"])
    if meta.get("key") in ("iif", "iifname"):
        return "interface"
    return protocol if protocol in _TRANSPORTS else ""


def _values(right: Any) -> list[Any] | None:
    """The alternatives of a match; None where they are in a set of their own, or are no values."""
    values = right["set"] if isinstance(right, dict) and "set" in right else right
    values = values if isinstance(values, list) else [values]
    values = [value["elem"].get("val") if isinstance(value, dict) and "elem" in value else value for value in values]
    is_known = all(isinstance(v, int) or (isinstance(v, str) and v[:1] != "@") or _is_range(v) for v in values)
    return values if is_known else None


def _is_range(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(end, int) for end in value.get("range", [""]))


def _overlaps(value: Any, ports: Ports, whole: bool = False) -> bool:
    """Whether a port or range has one of the ports, or the whole of them; a name of a service might."""
    if isinstance(value, str):
        return not whole
    first, last = value["range"] if isinstance(value, dict) else (value, value)
    if whole:
        return bool(first <= ports.first and ports.last <= last)
    return bool(first <= ports.last and ports.first <= last)


# --- the text of iptables-save ---------------------------------------------------------------------------------------


def _text(table: Table, chain: str, ports: Ports, depth: int = 0) -> str:
    some_return = False
    for rule in table.rules_of(chain):
        words, target = words_of(rule)[2:], target_of(rule)
        if _text_excludes(words, ports):
            continue
        is_sure = _text_includes(words, ports)
        if target in table.chains and depth < _DEEPEST:
            outcome = _text(table, target, ports, depth + 1)
        else:
            outcome = _REFUSED if target in ("DROP", "REJECT") else _MAYBE if target == "ACCEPT" else _NOTHING
        if outcome == _MAYBE:
            return _MAYBE
        if outcome == _REFUSED and is_sure:
            return _NOTHING if some_return else _REFUSED
        if target == "RETURN" or value_of(words, "-g", "--goto"):
            if is_sure:
                return _NOTHING
            some_return = True
    return _NOTHING


def _text_excludes(words: list[str], ports: Ports) -> bool:
    protocol = value_of(words, "-p", "--protocol")
    listed = value_of(words, "--dport", "--dports", "--destination-port", "--destination-ports")
    states = value_of(words, "--ctstate", "--state")
    return (
        protocol not in ("", "all", ports.protocol)
        or value_of(words, "-i", "--in-interface") == "lo"
        or (bool(states) and "NEW" not in states.split(","))
        or (bool(listed) and not any(_overlaps(_span(item), ports) for item in listed.split(",")))
    )


def _text_includes(words: list[str], ports: Ports) -> bool:
    """Whether nothing but protocol and port stands before the target, and each of the ports is meant."""
    before = words[: min([words.index(word) for word in ("-j", "-g") if word in words], default=0)]
    options = before[::2]
    listed = value_of(before, "--dport", "--dports", "--destination-port", "--destination-ports")
    return all(option in ("-p", "-m", "--dport", "--dports", "--comment") for option in options) and (
        not listed or any(_overlaps(_span(item), ports, whole=True) for item in listed.split(","))
    )


def _span(item: str) -> Any:
    first, dummy, last = item.partition(":")
    return {"range": [int(first), int(last or first)]} if first.isdigit() and (last or first).isdigit() else item
