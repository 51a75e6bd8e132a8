# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs faults on several hosts side by side, each on a host of its own that is made for it and removed after it."""

from __future__ import annotations

import os
import queue
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

from . import traps
from .case import Case
from .checks import Outcome
from .controller import CACHE, make_key, without
from .faults import FAULTS, SAMPLE, Fault
from .hosts import (
    ALLOWED4,
    ALLOWED6,
    IPV4,
    IPV6,
    NETWORK,
    STRANGER4,
    STRANGER6,
    Client,
    Host,
    Wire,
    make_network,
    remove,
)
from .kinds import KINDS, Kind
from .site import Site

AT_ONCE = int(os.environ.get("SESAME_FAULTS_AT_ONCE") or 2 * (os.cpu_count() or 1))
"""Hosts at the same time: they mostly wait."""


@dataclass(frozen=True)
class Row:
    """A fault on a kind of host."""

    kind: Kind
    fault: Fault
    lacks: str = ""
    """The protection that is missing; see mutants.py."""

    def __str__(self) -> str:
        """A word, for file names and `pytest -k`."""
        words = (*(["without", self.lacks] if self.lacks else []), self.kind.name, *self.fault.words)
        return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(words))


def rows(everything: bool) -> list[Row]:
    """All of it, or the sample that is quick: on the newest Debian alone, by both backends."""
    every = [Row(kind, there) for kind in KINDS for fault in FAULTS if (there := fault.on(kind))]
    if everything:
        return every
    return [row for row in every if (row.kind.name, row.fault.name, row.fault.step.name) in SAMPLE]


class Campaign:
    """The hosts of a run, and the outcomes as they come."""

    def __init__(self, wanted: Iterable[Row]) -> None:
        self._wanted = list(wanted)
        self._pool = ThreadPoolExecutor(max_workers=AT_ONCE)
        self._slots: queue.Queue[int] = queue.Queue()
        self._sites: dict[Kind, Site] = {}
        self.outcomes: dict[Row, Future[Outcome]] = {}

    def start(self) -> None:
        for number in range(AT_ONCE):
            self._slots.put(30 + number)
        key = make_key()
        library = traps.build(CACHE / "trap.so")
        make_network()
        kinds = list(dict.fromkeys(row.kind for row in self._wanted))
        image = "sesame-knock:" + kinds[0].suite
        self._wire = Wire(image)
        self._clients = Client(NETWORK + "-allowed"), Client(NETWORK + "-stranger")
        for client, ipv4, ipv6 in zip(self._clients, (ALLOWED4, STRANGER4), (ALLOWED6, STRANGER6)):
            client.start(image, ipv4, ipv6)
        allowed, stranger = self._clients
        allowed.run("sh", "-c", "umask 077 && cat >/root/key", text=(CACHE / "key").read_text())
        ready = {}
        for number, kind in enumerate(kinds):
            self._sites[kind] = Site(kind, key, self._wire, allowed, stranger)
            ready[kind] = self._pool.submit(self._sites[kind].prepare, 20 + number, library)
        for row in self._wanted:
            self.outcomes[row] = self._pool.submit(self._play, row, ready[row.kind])

    def _play(self, row: Row, ready: Future[None]) -> Outcome:
        ready.result()
        slot = self._slots.get()
        try:
            host = Host("sesame-fault-%d" % slot, IPV4 % slot, IPV6 % slot)
            return Case(row.fault, host, self._sites[row.kind], log_of(row), without(row.lacks)).run()
        finally:
            self._slots.put(slot)

    def end(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for client in self._clients:
            client.remove()
        self._wire.machine.remove()
        for site in self._sites.values():
            site.remove()
        remove("network", NETWORK)


def log_of(row: Row) -> Path:
    """What the controller has said."""
    return CACHE / "logs" / ("%s.log" % row)
