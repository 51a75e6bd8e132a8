# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to hold after a fault: who gets in, and that the rules of now, on disk and of the next boot agree."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from . import controller
from .backends import Backend
from .hosts import Client, Host, Watch

GUARD = "cat /etc/knockd-guard.conf"


@dataclass(frozen=True)
class Rules:
    """What is ours of each listing of a backend, and the daemon's guard."""

    live: tuple[tuple[str, ...], ...]
    disk: tuple[tuple[str, ...], ...]
    guard: str

    def agree(self) -> bool:
        return self.live == self.disk

    def replaced(self, old: str, new: str) -> Rules:
        """The same for another network."""

        def change(texts: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
            return tuple(tuple(line.replace(old, new) for line in lines) for lines in texts)

        return Rules(change(self.live), change(self.disk), self.guard.replace(old, new))


def rules_of(host: Host, backend: Backend) -> Rules:
    commands = [listing.live for listing in backend.listings] + [listing.disk for listing in backend.listings]
    script = "".join("{ %s; } 2>/dev/null; echo ---; " % command for command in [*commands, GUARD])
    *listings, guard, dummy = host.shell(script).split("---\n")
    own, half = [backend.own(listing) for listing in listings], len(backend.listings)
    return Rules(tuple(own[:half]), tuple(own[half:]), guard)


@dataclass
class Reached:
    """Who gets in, in IPv4 and IPv6."""

    knock: tuple[bool, bool]
    allowlist: tuple[bool, bool]
    strangers: tuple[str, str]
    """What a stranger without a knock sees: `open`, `refused`, `silent`, or both of two."""


def reach(host: Host, allowed: Client, stranger: Watch) -> Reached:
    """Try all doors of a host that is up."""
    begin = time.time()
    addresses = (host.ipv4, host.ipv6)
    allowlist = tuple(allowed.logs_in(address) for address in addresses)
    knock = tuple(controller.logs_in(address) for address in addresses)
    time.sleep(max(0.0, begin + 1.5 - time.time()))
    looks = stranger.since(begin, time.time())
    seen = tuple(" ".join(sorted({what for where, what in looks if where == address})) for address in addresses)
    return Reached((knock[0], knock[1]), (allowlist[0], allowlist[1]), (seen[0], seen[1]))


def secrets_of(host: Host) -> list[str]:
    """Where the host shows a knock of the sequence: its processes and its journal. Nowhere, it has to be."""
    found = []
    for place, command in (("process list", "ps -efww"), ("journal", "journalctl --no-pager --output=export")):
        words = set(re.split(r"[\s:/,=\"']+", host.shell(command)))
        if len(words.intersection(controller.sequence_ports())) >= 2:
            found.append(place)
    return found


def leftovers_of(host: Host) -> list[str]:
    """What a change must not leave behind: a journal, staged files."""
    names = "/var/lib/knock_firewall/change /var/lib/knock_firewall/.knock* /etc/iptables/.knock* /etc/.knock*"
    return host.shell("ls -d %s 2>/dev/null; true" % names).split()


def timer_waits(host: Host) -> bool:
    units = "knock-firewall-revert.timer knock-firewall-revert.service"
    return host.shell("systemctl is-active %s; true" % units).split() != ["inactive", "inactive"]


def is_settled(host: Host) -> bool:
    """Whether no change is under way. A journal without a mark is none: nothing has been changed yet."""
    marks = "ls /var/lib/knock_firewall/change 2>/dev/null | grep -e '^armed$' -e '^confirmed$'; true"
    return not timer_waits(host) and not host.shell(marks)


def last_change(host: Host) -> str:
    """The name of the last change that came to an end, kept or undone."""
    script = "cd /var/lib/knock_firewall/done 2>/dev/null && ls | grep -e '^armed$' -e '^confirmed$' && cat token; true"
    return host.shell(script)


@dataclass
class Outcome:
    """What a fault came to."""

    happened: str = ""
    now: Reached | None = None
    rebooted: Reached | None = None
    agree: bool = False
    problems: list[str] = field(default_factory=list)
    """Why the test fails."""
