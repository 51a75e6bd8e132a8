# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of iptables-save, read and compared: which rules are ours, which are foreign, and what has to change.

Everything here is pure: text in, text out. A family (IPv4 or IPv6) is one mapping of table names to `Table`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import NamedTuple

from ._bytes import carried

OWN_CHAINS = {
    # mangle comes first: the mark is cleared before the filter looks at it
    "mangle": ("KNOCK-MARK", "KNOCK-FORWARD", "KNOCK-PUBLISHED"),
    "filter": ("KNOCK", "KNOCK-ADMIT", "KNOCK-ESCAPE"),
}
"""The only chains that we ever touch."""

OWN_JUMPS = {
    "mangle": (("INPUT", "KNOCK-MARK"), ("FORWARD", "KNOCK-FORWARD"), ("POSTROUTING", "KNOCK-PUBLISHED")),
    "filter": (("INPUT", "KNOCK"),),
}
"""What leads to them: a built-in chain, and the chain of ours that it jumps to where that is there."""

_COUNTERS = re.compile(r"^\[\d+:\d+\]\s+")
_CHAIN = re.compile(r"^:(\S+)\s+(\S+)(?:\s+\[\d+:\d+\])?$")


class RulesError(ValueError):
    """Text that is no ruleset, or a port that is none; the message is one sentence that names the line or the item."""


@dataclass
class Table:
    """One table as iptables-save prints it."""

    chains: dict[str, str] = field(default_factory=dict)
    """Chain name to policy; `-` for a chain that is not built in."""
    rules: list[str] = field(default_factory=list)
    """`-A CHAIN ...`, in order, without counters."""

    def rules_of(self, chain: str) -> list[str]:
        return [rule for rule in self.rules if chain_of(rule) == chain]


class Ports(NamedTuple):
    """One or more ports of a protocol: `22/tcp`, `60000-60010/udp`; first and last are included."""

    first: int
    last: int
    protocol: str

    def __str__(self) -> str:
        numbers = str(self.first) if self.first == self.last else "%d-%d" % (self.first, self.last)
        return "%s/%s" % (numbers, self.protocol)

    def overlaps(self, other: Ports) -> bool:
        """Whether they have a port in common."""
        return self.protocol == other.protocol and self.first <= other.last and other.first <= self.last

    @property
    def dport(self) -> str:
        """As iptables spells it: `22`, `60000:60010`."""
        return str(self.first) if self.first == self.last else "%d:%d" % (self.first, self.last)


def parse_ports(item: str | int) -> Ports:
    """Read `22/tcp`, `60000-60010/udp`, or a plain number, which is tcp."""
    found = re.match(r"^(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp))?$", str(item).strip().lower())
    if not found:
        raise RulesError("'%s' is not a port: write for example 22/tcp or 60000-60010/udp" % item)
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= 65535:
        raise RulesError("'%s' is not a port: ports go from 1 to 65535, the lower one first" % item)
    return Ports(first, last, found[3] or "tcp")


# --- reading ---------------------------------------------------------------------------------------------------------


def parse(text: str) -> dict[str, Table]:
    """Read what iptables-save prints, or what iptables-restore takes."""
    tables: dict[str, Table] = {}
    table = None
    # Not splitlines: a comment may hold what Unicode calls the end of a line
    for number, raw in enumerate(carried(text).split("\n"), 1):
        line = _COUNTERS.sub("", raw.strip())
        if not line or line.startswith("#"):
            continue
        if line.startswith("*"):
            table = tables.setdefault(line[1:].strip(), Table())
            continue
        if table is None:
            raise RulesError("line %d stands outside of a table: %s" % (number, line))
        chain = _CHAIN.match(line)
        if line == "COMMIT":
            table = None
        elif chain:
            table.chains[chain[1]] = chain[2]
        elif line.startswith("-A "):
            table.rules.append(line)
        else:
            raise RulesError("line %d is not a line of iptables-save: %s" % (number, line))
    return tables


def foreign(tables: dict[str, Table]) -> dict[str, Table]:
    """All that is not ours. Tables that say nothing (no rule, no chain, policies ACCEPT) are left out."""
    kept = {}
    for name, table in tables.items():
        own = OWN_CHAINS.get(name, ())
        rest = Table(
            {chain: policy for chain, policy in table.chains.items() if chain not in own},
            [rule for rule in table.rules if chain_of(rule) not in own and target_of(rule) not in own],
        )
        if rest.rules or any(policy != "ACCEPT" for policy in rest.chains.values()):
            kept[name] = rest
    return kept


def has_own(tables: dict[str, Table]) -> bool:
    """Whether any of our chains is there."""
    return any(chain in tables[name].chains for name in OWN_CHAINS if name in tables for chain in OWN_CHAINS[name])


def render(tables: dict[str, Table]) -> str:
    """The text that iptables-restore takes."""
    lines = []
    for name, table in tables.items():
        lines += ["*" + name]
        lines += [":%s %s [0:0]" % item for item in table.chains.items()]
        lines += table.rules + ["COMMIT"]
    return "".join(line + "\n" for line in lines)


# --- one rule --------------------------------------------------------------------------------------------------------


def chain_of(rule: str) -> str:
    return rule.split(None, 2)[1]


def words_of(rule: str) -> list[str]:
    if not any(sign in rule for sign in "\"'\\"):
        return rule.split()  # fifty times as fast, which counts for ten thousand bans
    try:
        return shlex.split(rule)
    except ValueError:  # an unpaired quote: iptables-restore will say so
        return rule.split()


def target_of(rule: str) -> str:
    """The verdict or chain that a rule leads to; empty for a rule that only counts."""
    return value_of(words_of(rule), "-j", "--jump", "-g", "--goto")


def value_of(words: list[str], *options: str) -> str:
    """What follows the first of the options that is there and is not negated; else empty."""
    for index, word in enumerate(words[:-1]):
        if word in options and words[index - 1] != "!":
            return words[index + 1]
    return ""


def _is_unconditional(rule: str) -> bool:
    """Whether every packet matches: nothing but a comment stands between the chain and the target."""
    words = words_of(rule)[2:]
    if words[:3:2] == ["-m", "--comment"] and words[1] == "comment":
        words = words[4:]
    return words[:1] in (["-j"], ["-g"])


def _is_goto(rule: str) -> bool:
    return bool(value_of(words_of(rule), "-g", "--goto"))


def _names_one_source(rule: str) -> bool:
    return value_of(words_of(rule), "-s", "--source").endswith(("/32", "/128"))


# --- judging a table -------------------------------------------------------------------------------------------------


def refuses(table: Table | None, chain: str = "INPUT") -> str:
    """How a packet is refused that no rule accepts: `drop`, `reject`, or empty if it is let in.

    Where it is refused, RETURN is not enough for the ones that we let in.
    """
    if table is None:
        return ""
    verdict = _end_of(table, chain)
    return verdict if verdict in ("drop", "reject") else ""


def _end_of(table: Table, chain: str, depth: int = 0) -> str:
    """What the unconditional rules of a chain do: `drop`, `reject`, `accept`, or empty if all of it comes out again.

    What comes out of a built-in chain, by its end or by RETURN, gets the policy.
    """
    for rule in table.rules_of(chain):
        target = target_of(rule)
        if not _is_unconditional(rule):
            continue
        if target in ("DROP", "REJECT", "ACCEPT"):
            return target.lower()
        if target == "RETURN":
            break
        verdict = _end_of(table, target, depth + 1) if target in table.chains and depth < 16 else ""
        if verdict:
            return verdict
        if target in table.chains and _is_goto(rule):
            break
    return {"DROP": "drop", "ACCEPT": "accept"}.get(table.chains.get(chain, ""), "")


def leads(table: Table, chain: str, builtin: str = "INPUT") -> bool:
    """Whether a built-in chain jumps to ours exactly once, and before any rule that could let a stranger in.

    fail2ban puts its jump before ours: that only refuses, and stays. The hole of a command door names one source
    address: that stays too. Anything else that accepts, or refuses all, has to come after us.
    """
    rules = table.rules_of(builtin)
    jumps = [index for index, rule in enumerate(rules) if target_of(rule) == chain]
    return (
        len(jumps) == 1
        and _is_unconditional(rules[jumps[0]])
        and all(_may_go_before_us(table, rule) for rule in rules[: jumps[0]])
    )


def place_of(table: Table, chain: str, builtin: str = "INPUT") -> int:
    """The number of the first jump to our chain among the rules of a built-in one, from 1 on; 0 if there is none."""
    rules = table.rules_of(builtin)
    return next((number for number, rule in enumerate(rules, 1) if target_of(rule) == chain), 0)


def _may_go_before_us(table: Table, rule: str, is_builtin: bool = True, depth: int = 0) -> bool:
    """Whether a rule, of a built-in chain or of one that jumps lead to, leaves the decision to ours."""
    target = target_of(rule)
    if target in ("DROP", "REJECT"):
        return not _is_unconditional(rule)
    if target in table.chains and is_builtin and _is_goto(rule):
        return _names_one_source(rule)  # what passes the other chain does not come back, and gets the policy
    if target in table.chains:
        return depth < 16 and all(_may_go_before_us(table, inner, False, depth + 1) for inner in table.rules_of(target))
    if target == "RETURN" and not is_builtin:
        return True
    # In a built-in chain RETURN is the policy. A program that takes packets from a queue may let them in
    return target not in ("ACCEPT", "RETURN", "NFQUEUE", "QUEUE") or _names_one_source(rule)


# --- from what is there to what shall be -----------------------------------------------------------------------------


def own_text(tables: dict[str, Table]) -> str:
    """Our chains alone, for people to read in a diff; a jump that does not lead is shown as missing."""
    lines = []
    for name, chains in OWN_CHAINS.items():
        table = tables.get(name, Table())
        body = [rule for chain in chains for rule in table.rules_of(chain)]
        jumps = ["-A %s -j %s" % jump for jump in OWN_JUMPS[name] if leads(table, jump[1], jump[0])]
        if body:
            lines += ["*" + name] + jumps + body
    return "".join(line + "\n" for line in lines)


def delta(live: dict[str, Table], wanted: dict[str, Table]) -> str:
    """The text for `iptables-restore --noflush` that gives our chains the wanted content; empty if they have it.

    One transaction per table. Chains of others are not named; built-in ones are touched only where a jump has to move.
    """
    lines = []
    for name, chains in OWN_CHAINS.items():
        old, new = live.get(name, Table()), wanted.get(name, Table())
        body = _delta_of_chains(old, new, chains)
        for builtin, chain in OWN_JUMPS[name]:
            body += _delta_of_jump(old, new, chain, builtin)
        body += ["-X " + chain for chain in chains if chain in old.chains and chain not in new.chains]
        if body:
            lines += ["*" + name] + body + ["COMMIT"]
    return "".join(line + "\n" for line in lines)


def jumps_of_others(live: dict[str, Table], wanted: dict[str, Table]) -> list[tuple[str, str]]:
    """The tables and rules of others that lead to chains of ours which `wanted` does not have: these cannot go."""
    found = []
    for name, chains in OWN_CHAINS.items():
        old, new = live.get(name, Table()), wanted.get(name, Table())
        going = [chain for chain in chains if chain not in new.chains]
        for rule in old.rules:
            to, at = target_of(rule), chain_of(rule)
            if to in going and at not in chains and (at, to) not in OWN_JUMPS[name]:
                found.append((name, rule))
    return found


def _delta_of_chains(old: Table, new: Table, chains: tuple[str, ...]) -> list[str]:
    if all((c in old.chains) == (c in new.chains) and old.rules_of(c) == new.rules_of(c) for c in chains):
        return []
    # Under --noflush, naming a chain creates it, or empties it
    named = [":%s - [0:0]" % c for c in chains if c in old.chains or c in new.chains]
    return named + [rule for c in chains for rule in new.rules_of(c)]


def _delta_of_jump(old: Table, new: Table, chain: str, builtin: str) -> list[str]:
    wanted = chain in new.chains
    if wanted and leads(old, chain, builtin):
        return []
    rules = old.rules_of(builtin)
    stale = [rule for rule in rules if target_of(rule) == chain]
    place = _holes_end([rule for rule in rules if rule not in stale], old)
    return ["-D" + rule[2:] for rule in stale] + (["-I %s %d -j %s" % (builtin, place + 1, chain)] if wanted else [])


def _holes_end(rules: list[str], table: Table) -> int:
    """How many rules our jump leaves before it: up to the last hole that a command door has open now.

    Above such a hole our jump would shut out its knocker, whose next knocks only make the door's time-out longer.
    """
    end = 0
    for index, rule in enumerate(rules):
        if not _may_go_before_us(table, rule):
            break
        if target_of(rule) == "ACCEPT":
            end = index + 1
    return end


# --- what is there afterwards ----------------------------------------------------------------------------------------

_BUILT_IN = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


def after(live: dict[str, Table], wanted: dict[str, Table]) -> dict[str, Table]:
    """The tables that are there once `iptables-restore --noflush` has read the delta."""
    tables = {name: Table(dict(table.chains), list(table.rules)) for name, table in live.items()}
    table = Table()
    for line in delta(live, wanted).splitlines():
        if line.startswith("*"):
            table = tables.setdefault(line[1:], Table())
            for chain in _BUILT_IN[line[1:]]:
                table.chains.setdefault(chain, "ACCEPT")
        elif line != "COMMIT":
            _obey(table, line)
    return tables


def _obey(table: Table, line: str) -> None:
    """Do to a table what iptables-restore does at a line of a delta."""
    chain = _CHAIN.match(line)
    if chain:
        table.chains[chain[1]] = chain[2]
        table.rules = [rule for rule in table.rules if chain_of(rule) != chain[1]]
        return
    option, name, rest = line.split(None, 2) if line.count(" ") > 1 else (*line.split(), "")
    if option == "-A":
        table.rules.append(line)
    elif option == "-D":
        table.rules.remove("-A %s %s" % (name, rest))
    elif option == "-I":
        number, rest = rest.split(None, 1)
        places = [place for place, rule in enumerate(table.rules) if chain_of(rule) == name]
        place = (places + [len(table.rules)])[int(number) - 1]
        table.rules.insert(place, "-A %s %s" % (name, rest))
    elif option == "-X":
        table.chains.pop(name, None)
