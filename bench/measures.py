# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured, and how: each function is one measure of one peer in a fresh place."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import gauges
from .peers import OTHER_DOORS, CKnockd, Fwknop, Ours, Peer, Recipe, ShippedCKnockd, SilentCKnockd
from .place import Flood, Place
from .results import Cost, Elsewhere, Idle, Latency, Results, Share

MANY = 1_000_000
"""Sources of a flood that nobody can hold all of."""
FEW = 10
"""Live knockers."""
DOORS = 10_000
MODERATE = 50_000
"""Packets a second of the slower flood."""
ELSEWHERE = range(1000, 2000)
"""Ports that are no knocks."""
GAP = 10
"""Milliseconds between two knocks: far enough that they keep their order, the same for all."""
EXACT = 332
"""Doors whose knocks are as many ports as the filter knows exactly (bpf.py, MAX_RANGES)."""


class Effort(NamedTuple):
    """How much is done; short efforts show that everything still works, and measure badly."""

    clients: int
    """Knocks during a flood, and for the latency of what answers fast."""
    few: int
    """The same of what answers slowly, or not at all."""
    seconds: float
    """Of a flood whose cost is measured."""
    repeats: int
    window: float
    """Seconds for a sequence where the cost is measured: its time-outs belong to it, and must come meanwhile."""
    rest: float
    """Seconds without work until a daemon counts as done."""
    idle: float
    """Seconds."""


FULL = Effort(clients=200, few=60, seconds=3, repeats=5, window=2, rest=0.5, idle=10)
QUICK = Effort(clients=20, few=6, seconds=0.3, repeats=1, window=1, rest=0.1, idle=1)


class Bench:
    """One run: measures come one after the other, so that none disturbs another."""

    def __init__(self, tools: Path, effort: Effort, results: Results, say: Callable[[str], None]) -> None:
        self._tools = tools
        self._effort = effort
        self._results = results
        self._say = say

    def run(self) -> None:
        """Measure everything."""
        effort = self._effort
        self._say("latency ...")
        for peer in (Ours, CKnockd, Fwknop, Recipe):
            self.latency(peer, effort.few if peer in (CKnockd, Fwknop) else effort.clients)
            self.latency(peer, effort.clients if peer is Ours else effort.few // 3, flood=MODERATE)
        self._say("floods ...")
        for rate in (0.0, MODERATE):
            for peer in (Ours, CKnockd, Fwknop, Recipe):
                self.share(peer, MANY, rate)
        for peer in (Ours, CKnockd, Recipe):
            self.share(peer, 1, 0)
        for turn in range(effort.repeats):
            self._say("CPU time per packet, %d of %d ..." % (turn + 1, effort.repeats))
            for peer in (Ours, ShippedCKnockd, CKnockd, SilentCKnockd):
                self.cost(peer, sources=1, family=4)
            for doors in (1, DOORS):
                for sources in (FEW, MANY):
                    self.cost(Ours, sources, doors)
            for sources in (FEW, 1_000, 10_000):
                self.cost(SilentCKnockd, sources)
        self._say("traffic elsewhere, idle ...")
        self.elsewhere(Ours, EXACT)
        self.elsewhere(CKnockd)
        for peer in (Ours, CKnockd, Fwknop):
            self.idle(peer)

    def latency(self, kind: type[Peer], clients: int, flood: float = 0) -> None:
        """From the last knock to the connection, one client after the other."""
        with self._peer(kind) as peer:
            family = 6 if flood and 6 in peer.families else 4
            peer.issue(0, clients)
            running = self._flood(peer, family, MANY, flood, seconds=60) if flood else None
            if running:
                time.sleep(1)
            patience = 500 if flood else 2000
            measured = peer.place.probe(family, clients, peer.knocks, gap=GAP, patience=patience)
            if running:
                running.stop()
            self._results.latencies.append(Latency(peer.name, flood, measured))

    def share(self, kind: type[Peer], sources: int, rate: float) -> None:
        """Who gets in while others flood: clients begin every 20 ms, knock once, and look for a second."""
        clients = self._effort.clients
        with self._peer(kind) as peer:
            family = 6 if 6 in peer.families else 4
            sources = min(sources, 1 << 16) if family == 4 else sources
            peer.issue(0, clients)
            running = self._flood(peer, family, sources, rate, seconds=60)
            time.sleep(min(2, self._effort.seconds))  # the state of a flood that has been going on
            measured = peer.place.probe(family, clients, peer.knocks, stride=20, gap=GAP, spacing=10_000)
            flooded = running.stop()
            opened = sum(value is not None for value in measured)
            self._results.shares.append(Share(peer.name, sources, rate, flooded.rate, clients, opened))

    def cost(self, kind: type[Peer], sources: int, doors: int = 1, family: int = 6) -> None:
        """CPU time per packet under more packets than it can take, time-outs included; knocks are at all doors."""
        with self._peer(kind, window=self._effort.window, doors=doors) as peer:
            if doors > 1:
                peer.ports = range(OTHER_DOORS, OTHER_DOORS + doors)
            self._flood(peer, family, sources, 0, seconds=0.3).wait()  # code and dictionaries are warm
            gauges.rest(peer.pid, self._effort.rest)
            gauges.packets(peer.pid)
            before = gauges.cpu(peer.pid)
            flooded = self._flood(peer, family, sources, 0, self._effort.seconds).wait()
            seen = gauges.packets(peer.pid)  # at once: what has dropped packets may be closed when it is quiet
            time.sleep(self._effort.window + 0.1)
            gauges.rest(peer.pid, self._effort.rest)
            cpu = gauges.cpu(peer.pid) - before
            self._results.costs.append(
                Cost(
                    peer.name,
                    sources,
                    doors,
                    family,
                    flooded.rate,
                    seen.offered - seen.dropped,
                    seen.dropped,
                    cpu,
                    gauges.resident(peer.pid),
                )
            )

    def elsewhere(self, kind: type[Peer], doors: int = 1) -> None:
        """User time for packets to ports that are no knocks."""
        with self._peer(kind, doors=doors) as peer:
            gauges.rest(peer.pid, self._effort.rest)
            before = gauges.user(peer.pid)
            flooded = peer.place.flood(6, MANY, ELSEWHERE, 0, self._effort.seconds).wait()
            gauges.rest(peer.pid, self._effort.rest)
            self._results.elsewhere.append(Elsewhere(peer.name, flooded.sent, gauges.user(peer.pid) - before))

    def idle(self, kind: type[Peer]) -> None:
        """Wake-ups and memory of one that has nothing to do."""
        with self._peer(kind) as peer:
            gauges.rest(peer.pid, self._effort.rest, patience=3)
            before = gauges.wakeups(peer.pid)
            time.sleep(self._effort.idle)
            wakeups = gauges.wakeups(peer.pid) - before
            self._results.idle.append(Idle(peer.name, self._effort.idle, wakeups, gauges.resident(peer.pid)))

    def _flood(self, peer: Peer, family: int, sources: int, rate: float, seconds: float) -> Flood:
        return peer.place.flood(family, sources, peer.ports, rate, seconds, peer.payload)

    @contextlib.contextmanager
    def _peer(self, kind: type[Peer], window: float = 5, doors: int = 1) -> Iterator[Peer]:
        with (
            tempfile.TemporaryDirectory(prefix="knock-bench-") as directory,
            Place(Path(directory), self._tools) as place,
        ):
            peer = kind(place, window, doors)
            try:
                yield peer
            finally:
                peer.stop()
