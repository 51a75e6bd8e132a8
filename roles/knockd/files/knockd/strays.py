# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scanners and knockers told apart: who touches more than a few ports that the host neither serves nor knocks on.

What is a stray
    A packet that could be a knock, had it another port: the kernel finds those (kernel.py) and logs them for the
    sources that are watched. Watched is who holds a first knock. Nobody else's packets reach us.

What it does
    More than `limit` different stray ports between the first knock and the opening: the attempt was a scan. Its source
    backs off: for one window, the longest seq_timeout, whatever it sends is ignored, and does not prolong this. Up to
    the limit strays void nothing.

What a scan can still do
    A fast one is over before anybody is watched: the kernel itself remembers who sent many strays a second (kernel.py),
    and is asked before a door opens. A weak sequence may be complete before the strays come: its door waits for those.

Who sends strays in my name
    delays me by a window. So after a back-off my limit is MOST for a while: to hit every attempt of mine with more than
    that, a forger needs thousands of packets a second; and three knocks in random order lie that close together once in
    32,000 sweeps. Not for weak sequences: a scan would hit those.

What it holds
    At most BOUND sources that are watched and BOUND that backed off; the oldest go first. Where more than FLOOD first
    knocks a second come, sources are watched from their second knock on, which those of a spoofed flood never reach.

Pure like the tracker: no clock, no socket. Times are seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .model import Door
from .sequence import weaknesses

BOUND = 4096
FLOOD = 200
MOST = 512
MEMORY = 600.0
"""Seconds after a back-off for which the limit is MOST, and the source watched."""
ATTEMPTS = 32
"""Doors that one source is followed at; who begins at more is a scanner, or has begun at them in vain."""
SHORTEST, LONGEST = 0.1, 0.8
"""Seconds that a weak door waits for the strays that would follow: a scan's next knocks come as fast as the last ones
did, and who sleeps a second after knocking still finds the door open."""


class _Attempt(NamedTuple):
    began: float
    knocks: int
    """Knocks that had been made then."""
    over: float
    limit: int


class _Watched:
    __slots__ = ("attempts", "ports", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.attempts: dict[str, _Attempt] = {}
        self.ports: dict[int, float] = {}
        """When each stray port was touched last, the latest at the end."""


class Strays:
    """The sources that hold a first knock, the stray ports they touched, and who backs off."""

    def __init__(self, is_exempt: Callable[[bytes], bool]) -> None:
        self.limit = 0
        """How many stray ports void nothing."""
        self._is_exempt = is_exempt
        self._watched: OrderedDict[bytes, _Watched] = OrderedDict()
        self._back_offs: OrderedDict[bytes, float] = OrderedDict()
        self._begin: list[bytes] = []
        self._end: list[bytes] = []
        self._next_second, self._first_knocks = 0.0, 0
        self.replace(())

    def replace(self, doors: Iterable[Door]) -> None:
        """Judge these from now on; who is watched or backs off stays so."""
        doors = tuple(doors)
        self._weak = frozenset(door.sequence for door in doors if weaknesses(door.sequence))
        self.window = max((door.seq_timeout for door in doors), default=0.0)

    def is_weak(self, door: Door) -> bool:
        """Say whether a scan can complete this door's sequence before it goes astray."""
        return door.sequence in self._weak

    def progress(self, now: float, source: bytes, door: Door, number: int) -> None:
        """Take in that a source has made knock `number` of a door."""
        watched = self._watched.get(source)
        if watched is None:
            if number == 1:
                if now >= self._next_second:
                    self._next_second, self._first_knocks = now + 1, 0
                self._first_knocks += 1
                if self._first_knocks > FLOOD:
                    return
            if self._is_exempt(source):
                return
            watched = self._watch(source)
        if watched.until < now + self.window:
            self._extend(source, watched, now + 2 * self.window)
        if number == 1 or door.name not in watched.attempts:
            if len(watched.attempts) >= ATTEMPTS:
                watched.attempts.clear()
            limit = self.limit if self.is_weak(door) else self.limit_of(now, source)
            watched.attempts[door.name] = _Attempt(now, number, now + door.seq_timeout + LONGEST, limit)

    def stray(self, now: float, source: bytes, protocol: int, port: int) -> int:
        """Take in a stray; tell how many ports it makes if that is a scan, else 0."""
        watched = self._watched.get(source)
        if watched is None or self.backs_off(now, source):
            return 0
        ports = watched.ports
        ports.pop(protocol << 16 | port, None)
        ports[protocol << 16 | port] = now
        if len(ports) > MOST + 1:
            del ports[next(iter(ports))]
        for attempt in watched.attempts.values():
            if len(ports) > attempt.limit and now < attempt.over:
                found = sum(touched >= attempt.began for touched in ports.values())
                if found > attempt.limit:
                    return found
        return 0

    def back_off(self, now: float, source: bytes) -> None:
        """Ignore a source for one window, and watch it from now on."""
        self._back_offs.pop(source, None)
        self._back_offs[source] = now + self.window
        if len(self._back_offs) > BOUND:
            self._back_offs.popitem(last=False)
        watched = self._watched.get(source) or self._watch(source)
        watched.attempts.clear()
        watched.ports.clear()
        self._extend(source, watched, now + self.window + MEMORY)

    def backs_off(self, now: float, source: bytes) -> bool:
        """Say whether what this source sends is to be ignored."""
        return now < self._back_offs.get(source, now)

    def is_known(self, now: float, source: bytes) -> bool:
        """Say whether it backed off lately, and so is watched without a gap since."""
        return (
            source in self._back_offs
            and now < self._back_offs[source] + MEMORY
            and source in self._watched
            and now < self._watched[source].until
        )

    def limit_of(self, now: float, source: bytes) -> int:
        """Tell how many stray ports a source may touch within an attempt."""
        return MOST if self.is_known(now, source) else self.limit

    def settling(self, now: float, source: bytes, door: Door) -> float:
        """Tell for how many seconds a completed door waits for the strays of a scan that goes on; 0 for not at all."""
        if not self.is_weak(door):
            return 0.0
        watched = self._watched.get(source)
        attempt = watched.attempts.get(door.name) if watched else None
        gap = 0.0
        if attempt and attempt.knocks < len(door.sequence):
            gap = (now - attempt.began) / (len(door.sequence) - attempt.knocks)
        return min(LONGEST, max(SHORTEST, 1.25 * (self.limit + 1) * gap))

    def opened(self, source: bytes, door: Door) -> None:
        """Take in that an attempt has come to its good end."""
        watched = self._watched.get(source)
        if watched:
            watched.attempts.pop(door.name, None)

    def changes(self, now: float) -> tuple[list[tuple[bytes, float]], list[bytes]]:
        """Tell the kernel's part since the last time: whom to watch, and for how many seconds, and whom no longer."""
        # Since it was noted a turn may have lasted longer than the window: then there is nothing left to watch for.
        begin = [
            (source, self._watched[source].until - now)
            for source in self._begin
            if source in self._watched and self._watched[source].until > now
        ]
        end = [source for source in self._end if source not in self._watched]
        self._begin.clear()
        self._end.clear()
        return begin, end

    def _watch(self, source: bytes) -> _Watched:
        watched = self._watched[source] = _Watched()
        if len(self._watched) > BOUND:
            oldest, _watched = self._watched.popitem(last=False)
            self._end.append(oldest)
        return watched

    def _extend(self, source: bytes, watched: _Watched, until: float) -> None:
        watched.until = max(watched.until, until)
        self._watched.move_to_end(source)
        self._begin.append(source)
