# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a candidate gets into a kernel that has no rules: all rules as they would be, or ours alone.

Everything here is pure. DNAT and REDIRECT are left out: the container or the host that they send to is not there, and
what they send elsewhere is no longer what a rehearsal can ask about.
"""

from __future__ import annotations

import re
from typing import Mapping, NamedTuple, Sequence, Tuple

from ._rules import OWN_CHAINS, Table, chain_of, render, target_of

Command = Tuple[Sequence[str], str]
"""What is run, and what it reads."""


class Load(NamedTuple):
    """The commands for one family's candidate."""

    whole: Sequence[Command]
    """All rules as they would be after the change, those of others included."""
    alone: Sequence[Command] = ()
    """Our rules without those of others, for when these cannot be loaded, or make a difference."""


def iptables_load(restore: str, tables: Mapping[str, Table], nft: str = "nft", others: str = "") -> Load:
    """For one family, by its iptables-restore: `tables` as `after` says they would be.

    `others`: native tables that live beside them, as `_nftables.of_others` picks them from `nft -s list ruleset`.
    """
    command = [restore, "-w", "10"]
    whole = {name: _staying(table) if name == "nat" else table for name, table in tables.items()}
    return Load(
        _by_nft(nft, _staying_lines(others)) + [(command, render(whole))], [(command, render(_own_tables(tables)))]
    )


def nftables_load(nft: str, text: str, others: str = "", by_iptables: Sequence[Command] = ()) -> Load:
    """For either family, by nft: the file of our table, and what lives beside it.

    `by_iptables`: iptables-restore and ip6tables-restore with what their -save commands print, where a host has both.
    """
    own = [([nft, "-f", "-"], text)]
    return Load([*by_iptables, *_by_nft(nft, _staying_lines(others)), *own], own)


def _by_nft(nft: str, text: str) -> list[Command]:
    return [([nft, "-f", "-"], text)] if text.strip() else []


def _own_tables(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Our chains and the jumps to them, in tables that let everything else pass."""
    own = {}
    for name, chains in OWN_CHAINS.items():
        table = tables.get(name, Table())
        own[name] = Table(
            {"INPUT": "ACCEPT", **{chain: "-" for chain in chains if chain in table.chains}},
            [
                rule
                for rule in table.rules
                if chain_of(rule) in chains or (chain_of(rule) == "INPUT" and target_of(rule) in chains)
            ],
        )
    return own


def _staying(nat: Table) -> Table:
    return Table(nat.chains, [rule for rule in nat.rules if target_of(rule) not in ("DNAT", "REDIRECT")])


_SENDS_ELSEWHERE = re.compile(r"^\s.*\b(dnat( ip6?)? to|redirect( to .*)?$)")


def _staying_lines(listing: str) -> str:
    """nft lists one rule a line."""
    return "".join(line for line in listing.splitlines(True) if not _SENDS_ELSEWHERE.search(line))
