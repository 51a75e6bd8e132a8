# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests know of a firewall that holds our rules: its steps of a change, how to list it, who else uses it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Mapping, NamedTuple

from . import steps
from .steps import Step

CHANGE = "/var/lib/knock_firewall/change"
TIMER = "systemd-run *knock-firewall-revert*"

Moments = tuple[str, ...]
"""What the host is held at, the first of them that comes; see trap.c."""


class Listing(NamedTuple):
    """Rules that are listed together: shell commands, of which none has to succeed."""

    name: str
    live: str
    disk: str
    """What the boot will load, spelled as the live rules are."""


@dataclass(frozen=True, eq=False)
class Backend:
    """One of those that knock_firewall_backend names."""

    name: str
    way: Mapping[Step, tuple[Moments, ...]]
    """The moments that lead to each step, one after the other. A step that is not here, a change does not have."""
    restoring: str
    """The moment when the undoing begins to bring back what was live; IPv4 first, where the families are apart."""
    listings: tuple[Listing, ...]
    own: Callable[[str], tuple[str, ...]]
    """The lines of a listing that are ours, so that they can be compared."""
    disks: Mapping[str, str]
    """The folders that can lie on a small disk of their own: of the rules, of the journal."""
    mark_everything: str
    """A shell script: another program sets every bit of the mark, early, on every packet."""
    ban_action: str
    """What fail2ban bans with."""


# --- the steps -------------------------------------------------------------------------------------------------------


def before(what: str, *patterns: str) -> Moments:
    return tuple("before %s %s" % (what, pattern) for pattern in patterns)


def after(what: str, *patterns: str) -> Moments:
    return tuple("after %s %s" % (what, pattern) for pattern in patterns)


def ways(validating: Moments, live: tuple[Moments, ...]) -> dict[Step, tuple[Moments, ...]]:
    """The steps that all have; `live`: to the moment when all rules are live."""
    return {
        steps.REHEARSED: (validating,),
        steps.UNREHEARSED: (validating,),
        steps.SAVED: (before("move", CHANGE + "/token"),),
        steps.STAGED: (before("run", TIMER),),
        steps.TIMED: (after("run", TIMER),),
        steps.ARMED: (ARMED,),
        steps.LIVE: live,
        steps.CONNECTING: live,
        steps.UNDOING: live,
        steps.LOGGING_IN: (*live, before("run", "sshd -D -R*", "sshd-session*")),
        steps.CONFIRMING: (before("move", CHANGE + "/confirmed"),),
        steps.CONFIRMED: (after("move", CHANGE + "/confirmed"),),
        steps.GUARD_SAVED: (before("run", "systemctl reload knockd.service"),),
        steps.FORGOTTEN: (after("move", "/var/lib/knock_firewall/done"),),
        **dict.fromkeys(steps.NOWHERE, ()),
    }


ARMED = after("move", CHANGE + "/armed")

# --- iptables --------------------------------------------------------------------------------------------------------

COUNTERS = re.compile(r" ?\[[0-9]+:[0-9]+\]$")


def own_chains(text: str) -> tuple[str, ...]:
    """Our chains and what leads to them, of iptables-save or a file for iptables-restore: in one order, not counted."""
    table, lines = "", []
    for line in text.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith((":KNOCK", "-A KNOCK")) or (line.startswith("-A INPUT ") and "-j KNOCK" in line):
            lines.append((table, line.split()[1] if line.startswith("-A") else "", COUNTERS.sub("", line)))
    # The order within a chain counts, that of chains does not
    return tuple(" ".join((table, line)) for table, chain, line in sorted(lines, key=lambda item: item[:2]))


IPTABLES = Backend(
    name="iptables",
    way={
        **ways(
            validating=before("run", "iptables-restore *--test /*"),
            live=(after("run", "ip6tables-restore -w 10 --noflush /*"),),
        ),
        steps.V4_LIVE: (after("run", "iptables-restore -w 10 --noflush /*"),),
        steps.V4_SAVED: (after("move", "/etc/iptables/rules.v4"),),
        steps.V6_SAVED: (after("move", "/etc/iptables/rules.v6"),),
    },
    # The shell script's call: it reads from a pipe, the module's from a file
    restoring="before run ip6tables-restore -w 10 --noflush",
    listings=(
        Listing("v4", "iptables-save", "cat /etc/iptables/rules.v4"),
        Listing("v6", "ip6tables-save", "cat /etc/iptables/rules.v6"),
    ),
    own=own_chains,
    disks={"rules": "/etc/iptables", "journal": "/var/lib/knock_firewall"},
    mark_everything="""
        for t in iptables ip6tables; do $t -t mangle -A PREROUTING -j MARK --set-xmark 0xffffffff || exit 1; done
    """,
    ban_action="iptables-multiport",
)

# --- nftables --------------------------------------------------------------------------------------------------------

FILE = "/etc/knock_firewall.nft"
LIST = "nft -s list table inet knock_firewall"

NFTABLES = Backend(
    name="nftables",
    way={
        **ways(
            validating=before("run", "nft -c -f /*"),
            # Both families at once. Before the journal, the same command loads the rules where nobody sees them
            live=(ARMED, after("run", "nft -f /*")),
        ),
        steps.TABLE_SAVED: (after("move", FILE),),
    },
    restoring="before run nft -f -",
    listings=(Listing("nft", LIST, f"[ -e {FILE} ] && unshare --net sh -c 'nft -f {FILE} && {LIST}'"),),
    own=lambda text: tuple(" ".join(line.split()) for line in text.splitlines() if line.strip()),
    disks={"rules": "/etc", "journal": "/var/lib/knock_firewall"},
    mark_everything="""
        nft 'table inet marks { chain early { type filter hook prerouting priority raw; meta mark set 0xffffffff; }; }'
    """,
    ban_action="nftables",
)
