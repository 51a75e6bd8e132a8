# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run has measured, raw, as it is written to a file; pure."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Iterator, NamedTuple

OURS, C_KNOCKD, FWKNOP, RECIPE = "sesame.knock", "C knockd", "fwknop", "nft recipe"
SILENT_C_KNOCKD = "C knockd without log"
SHIPPED_C_KNOCKD = "C knockd with syslog"
BOUND = 250_000
"""Knockers that our daemon remembers by default."""
PEERS = (OURS, C_KNOCKD, FWKNOP, RECIPE)


class Share(NamedTuple):
    """How many legitimate clients got in during a flood of first knocks."""

    peer: str
    sources: int
    asked: float
    """Packets a second that were asked for; 0: as fast as the generator can."""
    rate: float
    """Packets a second that the generator achieved."""
    clients: int
    opened: int

    @property
    def percent(self) -> float:
        """Clients that got in."""
        return 100 * self.opened / self.clients


class Cost(NamedTuple):
    """CPU time for the packets that one daemon has handled; what its socket had no room for is not among them."""

    peer: str
    sources: int
    doors: int
    family: int
    rate: float
    """Packets a second that the generator achieved."""
    handled: int
    dropped: int
    cpu: float
    """Seconds, user and system, until nothing was left to do, time-outs included."""
    resident: int
    """Bytes of memory after it."""

    @property
    def live(self) -> int:
        """How many of the sources are knockers at most."""
        return min(self.sources, BOUND)

    @property
    def per_packet(self) -> float:
        """Nanoseconds."""
        return self.cpu / self.handled * 1e9

    @property
    def throughput(self) -> float:
        """Packets a second that were handled while the generator sent at its rate."""
        return self.rate * self.handled / (self.handled + self.dropped)


class Elsewhere(NamedTuple):
    """What packets cost that concern no door."""

    peer: str
    sent: int
    user: float
    """Seconds of CPU time in user mode."""


class Latency(NamedTuple):
    """Microseconds from the last knock to a connection, for each client; None: never."""

    peer: str
    flood: float
    """First knocks a second from a million sources meanwhile; 0: nothing else happens."""
    microseconds: list[float | None]

    @property
    def opened(self) -> list[float]:
        """Of those who got in, sorted."""
        return sorted(value for value in self.microseconds if value is not None)

    def percentile(self, percent: float) -> float | None:
        """The value that so many of all clients stay below; None if that many never got in."""
        place = max(0, -int(-len(self.microseconds) * percent // 100) - 1)
        opened = self.opened
        return opened[place] if place < len(opened) else None


class Idle(NamedTuple):
    """A daemon that has nothing to do."""

    peer: str
    seconds: float
    wakeups: int
    resident: int
    """Bytes of memory."""


@dataclass
class Results:
    """All of one run."""

    machine: dict[str, str]
    shares: list[Share] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    elsewhere: list[Elsewhere] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        raw = {name: [row._asdict() for row in rows] for name, rows in self._tables()}
        path.write_text(json.dumps({"machine": self.machine, **raw}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` has written."""
        raw: dict[str, Any] = json.loads(path.read_text())
        results = cls(raw["machine"])
        for name, rows in results._tables():
            rows.extend(_KINDS[name](**row) for row in raw[name])
        return results

    def share(self, peer: str, sources: int | None, asked: float) -> Share | None:
        """The one with so many sources, or with most of them."""
        found = [row for row in self.shares if row.peer == peer and row.asked == asked]
        if sources is None:
            return max(found, key=lambda row: row.sources, default=None)
        return next((row for row in found if row.sources == sources), None)

    def latency(self, peer: str, flooded: bool) -> Latency | None:
        """With or without a flood."""
        return next((row for row in self.latencies if row.peer == peer and bool(row.flood) == flooded), None)

    def cost(self, peer: str, live: int, doors: int, family: int) -> float | None:
        """The median of all runs in nanoseconds a packet."""
        found = [
            row.per_packet
            for row in self.costs
            if (row.peer, row.live, row.doors, row.family) == (peer, live, doors, family)
        ]
        return statistics.median(found) if found else None

    def throughput(self, peer: str) -> float | None:
        """The median of all runs with one door and IPv4 packets of one source."""
        found = [row.throughput for row in self.costs if (row.peer, row.sources, row.family) == (peer, 1, 4)]
        return statistics.median(found) if found else None

    def _tables(self) -> Iterator[tuple[str, list[Any]]]:
        for each in fields(self):
            if each.name in _KINDS:
                yield each.name, getattr(self, each.name)


_KINDS: dict[str, Any] = {
    "shares": Share,
    "costs": Cost,
    "elsewhere": Elsewhere,
    "latencies": Latency,
    "idle": Idle,
}
