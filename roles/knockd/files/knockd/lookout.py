# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scanners stay out: has the strays of knockers watched, reads what the kernel saw, and says which door may open when.

`strays.py` judges, the table finds and logs; this is what runs between them.
"""

from __future__ import annotations

import heapq
import selectors
import time
from ipaddress import ip_address
from itertools import count
from typing import Callable, Iterable, List, NamedTuple, Optional, Tuple

from .kernel import KernelError, Table
from .log import Log
from .model import Door, Network, Settings
from .nflog import Nflog
from .strays import Strays

MOST_SETTLING = 4096
"""Completed doors that may wait at a time; one more finds its door shut."""


class _Settling(NamedTuple):
    due: float
    order: int
    source: bytes
    door: Door


class Lookout:
    """Decides about every completed door. `refuse` is called with source, door (or "") and why, if one is refused."""

    def __init__(self, selector: selectors.BaseSelector, log: Log, refuse: Callable[[bytes, str, str], None]) -> None:
        self._selector = selector
        self._log = log
        self._refuse = refuse
        self._strays = Strays(self._is_allowed)
        self.ignores = self._strays.backs_off
        """Whether what this source sends does not count now: asked for each event, so without a way round."""
        self._nflog: Optional[Nflog] = None
        self._table: Optional[Table] = None
        self._wanted = False
        self._blind = False
        self._allow: Tuple[Network, ...] = ()
        self._settling: List[_Settling] = []
        self._order = count()

    def wants(self, settings: Settings) -> bool:
        """Whether strays are to be counted, and can be as far as is known."""
        return bool(settings.doors) and "scans" not in settings.classic and not self._blind

    def listen(self, settings: Settings) -> Optional[int]:
        """The group of NFLOG that the table is to log strays to; None if it is not to, or cannot."""
        if not self.wants(settings):
            return None
        if self._nflog is None:
            try:
                self._nflog = Nflog()
            except OSError as error:
                self.give_up(str(error))
                return None
            self._selector.register(self._nflog, selectors.EVENT_READ, self._on_strays)
        return self._nflog.group

    def give_up(self, reason: str) -> None:
        """Goes on without the strays."""
        if not self._blind:
            self._blind = True
            self._log.say("cannot tell scans from knocks, so doors with weak sequences stay shut: %s" % reason)

    def use(self, settings: Settings, table: Optional[Table]) -> None:
        """Judges by these settings from now on, and by the strays that this table logs."""
        self._wanted = "scans" not in settings.classic
        self._table = None if self._blind or not self._wanted else table
        self._allow = tuple(network for guard in settings.guards for network in guard.allow)
        self._strays.limit = settings.strays
        self.replace(settings.doors)

    def replace(self, doors: Iterable[Door]) -> None:
        """Judges these doors from now on."""
        self._strays.replace(doors)

    def progress(self, now: float, source: bytes, door: Door, number: int) -> None:
        """Takes in a stage that a knocker has reached."""
        if self._table:
            self._strays.progress(now, source, door, number)

    def completed(self, now: float, source: bytes, door: Door) -> bool:
        """Whether a completed door opens at once. If not, it stays shut, or `due` names it later."""
        if not self._wanted or self._is_allowed(source):
            return True
        if self._table is None:
            if self._strays.is_weak(door):
                self._refuse(source, door.name, "stays shut, its sequence is weak: a scan would open it")
                return False
            return True
        self._on_strays(None)  # those that came before the last knock are all there by now
        if self._strays.backs_off(now, source):
            return False
        # Who backed off lately has been watched since: a count, which somebody else must not spoil for ever.
        if not self._strays.is_known(now, source) and self._scans(source):
            self._back_off(now, source, "too many ports a second that nobody serves")
            return False
        wait = self._strays.settling(now, source, door)
        if not wait:
            self._strays.opened(source, door)
            return True
        if len(self._settling) < MOST_SETTLING:
            heapq.heappush(self._settling, _Settling(now + wait, next(self._order), source, door))
        return False

    def due(self, now: float) -> List[Tuple[bytes, Door]]:
        """The doors that have waited long enough and may open; tells the kernel whom to watch, so call it each turn."""
        opening = []
        if self._settling and self._settling[0].due <= now:
            self._on_strays(None)
            while self._settling and self._settling[0].due <= now:
                _due, _order, source, door = heapq.heappop(self._settling)
                self._strays.opened(source, door)
                opening.append((source, door))
        if self._table:
            try:
                self._table.watch(*self._strays.changes(now))
            except KernelError as error:
                self._log.say(str(error))
        return opening

    def next_deadline(self) -> Optional[float]:
        """When `due` may next have something to open."""
        return self._settling[0].due if self._settling else None

    def _on_strays(self, _nflog: Optional[Nflog]) -> None:
        if self._nflog is None:
            return
        now = time.monotonic()
        for packet in self._nflog.read():
            ports = self._strays.stray(now, packet.source, packet.protocol, packet.port)
            if ports:
                self._back_off(now, packet.source, "%d ports that nobody serves" % ports)

    def _back_off(self, now: float, source: bytes, evidence: str) -> None:
        self._strays.back_off(now, source)
        if any(waiting.source == source for waiting in self._settling):
            self._settling = [waiting for waiting in self._settling if waiting.source != source]
            heapq.heapify(self._settling)
        self._refuse(source, "", "backing off for %g s: it scans (%s)" % (self._strays.window, evidence))

    def _scans(self, source: bytes) -> bool:
        try:
            return self._table is not None and self._table.scans(source)
        except KernelError as error:
            self._log.say(str(error))
            return False

    def _is_allowed(self, source: bytes) -> bool:
        return bool(self._allow) and any(ip_address(source) in network for network in self._allow)
