# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of nft, read and compared: our own table, what brings it back, and the tables of others.

Everything here is pure: text in, text out. What nft lists is no file of ours: it spells rules in its own way, which
differs from version to version. So what is live is compared with what the same nft lists of the candidate, after it
has loaded it where nobody sees it: SCRATCH says how.
"""

from __future__ import annotations

import json
import re
from typing import Any, Iterable, NamedTuple

FAMILY, NAME = "inet", "knock_firewall"
TABLE = FAMILY + " " + NAME
"""The only table that we ever touch."""
DAEMONS_TABLE = "inet knockd"
"""The knock daemon's, which marks whom it has admitted, and guards."""
FILE = "/etc/knock_firewall.nft"

REMOVE = "table %s\ndelete table %s\n" % (TABLE, TABLE)
"""A transaction, or its beginning: the table is gone. The first line is for a host that has none."""

LISTING = ("-s", "list", "table", FAMILY, NAME)
"""For nft: what is live, without counters. It fails where there is no such table."""

_WITNESS = "inet knock_witness"
_LINE = "-- next --"
SCRATCH = f"""\
PATH=/usr/sbin:/usr/bin:/sbin:/bin
load() {{ nft -f "$1" && {{ nft -s list table {TABLE} 2>/dev/null; echo "{_LINE}"; }}; }}
nft add table {_WITNESS} && load "$1" && load "$1" && nft list tables
"""
"""For `unshare --net sh -c SCRATCH sh FILE`: load a candidate twice beside a table of somebody else, and list it."""

WITH_HANDLES = f"""\
PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [ -n "${{1-}}" ]; then nft -f "$1" || exit 1; fi
nft --json list ruleset && echo && echo "{_LINE}" && nft --handle --stateless list ruleset
"""
"""For `sh -c WITH_HANDLES sh [FILE]`: prints for `read_with_handles` what is live, in a scratch namespace the file."""


class NftablesError(ValueError):
    """A candidate that is more or less than our table; the message is a sentence."""


def read_scratch(output: str) -> str:
    """How nft lists the candidate. Raises NftablesError if the candidate is more or less than our table."""
    listing, again, tables = (output.split(_LINE + "\n") + ["", ""])[:3]
    found = {" ".join(line.split()[1:]) for line in tables.splitlines() if line.startswith("table ")}
    others = sorted(found - {_WITNESS, TABLE})
    if _WITNESS not in found:
        raise NftablesError("The rules flush or delete tables of others: only table %s may be named" % TABLE)
    if others:
        raise NftablesError("The rules make table %s: only table %s may be named" % (others[0], TABLE))
    if not listing.strip():
        raise NftablesError("The rules make no table %s" % TABLE)
    if differs(listing, again):
        raise NftablesError(
            "The rules add to those that are there: let them begin with 'table %s' and 'delete table %s'"
            % (TABLE, TABLE)
        )
    return listing


def read_with_handles(output: str) -> tuple[list[dict[str, Any]], str]:
    """The rules as data, and as text with handles."""
    data, dummy, text = output.partition(_LINE + "\n")
    return list(json.loads(data)["nftables"]), text


def differs(live: str, wanted: str) -> bool:
    """Whether two listings of our table, each one empty where there is none, are not the same rules."""
    return _lines(live) != _lines(wanted)


def _lines(listing: str) -> list[str]:
    return [" ".join(line.split()) for line in listing.splitlines() if line.strip()]


# --- the tables of others --------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """One table of `nft -s list ruleset`."""

    family: str
    name: str
    text: str

    @property
    def unowned(self) -> str:
        """The text without a program that owns it, with whom the table would go."""
        return re.sub(r"^\tflags [^\n]*\bowner\b[^\n]*\n", "", self.text, count=1, flags=re.MULTILINE)


def tables(ruleset: str) -> list[Listed]:
    """The tables of a listing, in their order."""
    found: list[Listed] = []
    lines: list[str] = []
    for line in ruleset.splitlines(keepends=True):
        # Only a table begins and ends in the first column: nft indents all that is inside, and breaks no string
        lines = [line] if re.match(r"table \S+ \S+ \{", line) else lines + [line]
        head = lines[0].split()
        if line.rstrip("\n") == "}" and head[0] == "table":
            found.append(Listed(head[1], head[2], "".join(lines)))
            lines = []
    return found


_MANAGED = re.compile(r"[Tt]able (\S+ \S+) is managed by iptables-nft")


def managed_by_iptables(warnings: str) -> list[str]:
    """The tables, as `ip filter`, that nft warns about when it lists them: iptables-save knows them better."""
    return _MANAGED.findall(warnings)


_WITH_DEVICES = ("netdev", "bridge")


def of_others(ruleset: str, leave_out: Iterable[str] = ()) -> str:
    """What a rehearsal loads beside our table: the tables of others that can be loaded in another network namespace.

    Those of netdev and bridge never see what INPUT decides over. The daemon's marks are what a rehearsal sets itself,
    and the tables in `leave_out` are loaded by somebody else.
    """
    without = {TABLE, DAEMONS_TABLE, *leave_out}
    return "".join(
        table.unowned
        for table in tables(ruleset)
        if table.family not in _WITH_DEVICES and table.family + " " + table.name not in without
    )


def refuses(listing: list[dict[str, Any]], family: str) -> str:
    """How chains of others refuse a packet of `ip` or `ip6` that no rule accepts: `drop`, `reject`, or empty.

    Reads the `nftables` array of `nft --json list ruleset`. An accept of ours does not overrule them, but a stranger
    is to be refused in the same way.
    """
    verdicts = set()
    for chain in (entry["chain"] for entry in listing if "chain" in entry):
        if chain.get("hook") == "input" and chain["family"] in (family, "inet") and chain["table"] not in _OURS:
            verdicts.add(_end_of(listing, chain, 0) or chain.get("policy", ""))
    return next((verdict for verdict in ("drop", "reject") if verdict in verdicts), "")


_OURS = (NAME, "knockd")
_SAY_NOTHING = ("counter", "log")


def _end_of(listing: list[dict[str, Any]], chain: dict[str, Any], depth: int) -> str:
    """`drop`, `reject` or `accept` where a rule of the chain says so to every packet; else empty.

    What comes out of a base chain, by its end or by `return`, gets the policy.
    """
    for rule in (entry["rule"] for entry in listing if "rule" in entry):
        if (rule["family"], rule["table"], rule["chain"]) != (chain["family"], chain["table"], chain["name"]):
            continue
        steps = [step for step in rule.get("expr", []) if isinstance(step, dict)]
        told = [step for step in steps if not any(name in step for name in _SAY_NOTHING)]
        if len(told) != 1:
            continue
        (verdict, argument), *dummy = told[0].items()
        if verdict in ("drop", "reject", "accept"):
            return verdict
        if verdict == "return":
            return ""
        if verdict in ("jump", "goto") and depth < 16:
            answer = _end_of(listing, {**chain, "name": argument["target"]}, depth + 1)
            if answer or verdict == "goto":
                return answer
    return ""
