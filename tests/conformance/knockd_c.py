# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What knockd.c's sniff() does with a packet, each of its bugs with a switch: all on is C knockd, all off is ours.

That is what explains a difference between the two: with all switches on the model tells what C knockd logs, with
none what ours logs. Written down from the C source and docs/compatibility.md, list by list, and as slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from knockd.packet import TCP, Packet

WIPED, REPEATED, ONE_DOOR, WHOLE_SECONDS = 1, 12, 13, 19
"""The numbers of docs/compatibility.md that a trace of packets can show. (Number 2 is played as stray ports.)"""
BUGS = frozenset((WIPED, REPEATED, ONE_DOOR, WHOLE_SECONDS))
CLASSIC = frozenset((REPEATED, ONE_DOOR))
"""Those that come back with `Classic = scans, repeats, doors, pairs`."""


@dataclass(frozen=True)
class Door:
    """A section of knockd.conf, in the model's own words."""

    name: str
    sequence: tuple[tuple[int, int], ...]
    """Protocol number and port."""
    timeout: int
    mask: int = 0
    value: int = 0
    target: bytes | None = None


class Told(NamedTuple):
    """A log line: `Stage N`, `OPEN SESAME` or `sequence timeout (stage N)`."""

    door: str
    text: str


@dataclass(eq=False)
class _Attempt:
    door: Door
    source: bytes
    begin: float
    stage: int = 0


@dataclass
class Model:
    """Takes packets in the order of the wire, with the kernel's time stamps."""

    doors: tuple[Door, ...]
    local: frozenset[bytes]
    bugs: frozenset[int]
    told: dict[bytes, list[list[Told]]] = field(default_factory=dict)
    """For each source what each packet has brought about, in order; what one packet brings about is a set to us."""
    closest: dict[bytes, float] = field(default_factory=dict)
    """For each source how near one of its packets came to the end of one of its windows, in seconds."""
    _attempts: list[_Attempt] = field(default_factory=list)

    def observe(self, at: float, packet: Packet) -> None:
        """One packet."""
        knock = packet.protocol, packet.port
        if not any(knock in door.sequence and self._counts(door, packet) for door in self.doors):
            return  # the pcap filter
        now: dict[bytes, list[Told]] = {}

        def tell(attempt: _Attempt, text: str) -> None:
            now.setdefault(attempt.source, []).append(Told(attempt.door.name, text))

        def advance(attempt: _Attempt) -> None:
            attempt.stage += 1
            tell(attempt, "Stage %d" % attempt.stage)
            if attempt.stage == len(attempt.door.sequence):
                tell(attempt, "OPEN SESAME")

        self._clean(at, packet.source, tell)
        found = [
            attempt
            for attempt in self._attempts
            if attempt.source == packet.source and self._is_addressed(attempt.door, packet)
        ]
        busy = []
        for attempt in found:
            door = attempt.door
            if not self._fits(door, packet):
                continue
            if knock == door.sequence[attempt.stage]:
                busy.append(door)
                advance(attempt)
            elif knock == door.sequence[attempt.stage - 1] and REPEATED not in self.bugs:
                busy.append(door)
                if attempt.stage == 1:
                    attempt.begin = at
            else:
                attempt.stage = -1
        if not (found and ONE_DOOR in self.bugs):
            for door in self.doors:
                if knock == door.sequence[0] and self._counts(door, packet) and door not in busy:
                    attempt = _Attempt(door, packet.source, at)
                    self._attempts.append(attempt)
                    advance(attempt)
        self._keep(now)

    def end(self, at: float) -> dict[bytes, list[list[Told]]]:
        """What has been told when nothing has come until then."""
        now: dict[bytes, list[Told]] = {}
        self._clean(
            at, b"", lambda attempt, text: now.setdefault(attempt.source, []).append(Told(attempt.door.name, text))
        )
        self._keep(now)
        return self.told

    def _keep(self, now: dict[bytes, list[Told]]) -> None:
        for source, lines in now.items():
            self.told.setdefault(source, []).append(sorted(lines))

    def _clean(self, at: float, source: bytes, tell: Callable[[_Attempt, str], None]) -> None:
        """Removes what is over: as in C knockd not before the next packet of anybody."""
        over = []
        for attempt in self._attempts:
            if not 0 <= attempt.stage < len(attempt.door.sequence):
                over.append(attempt)
                continue
            begin, end = attempt.begin, at
            if source == attempt.source:
                near = abs(end - begin - attempt.door.timeout)
                self.closest[source] = min(near, self.closest.get(source, math.inf))
            if WHOLE_SECONDS in self.bugs:
                begin, end = math.floor(begin), math.floor(end)
            if end - begin >= attempt.door.timeout:
                tell(attempt, "sequence timeout (stage %d)" % attempt.stage)
                over.append(attempt)
        if over and over[0] is self._attempts[0] and WIPED in self.bugs:
            self._attempts = []
        else:
            self._attempts = [attempt for attempt in self._attempts if attempt not in over]

    def _counts(self, door: Door, packet: Packet) -> bool:
        return self._is_addressed(door, packet) and self._fits(door, packet)

    def _is_addressed(self, door: Door, packet: Packet) -> bool:
        return packet.destination == door.target if door.target else packet.destination in self.local

    @staticmethod
    def _fits(door: Door, packet: Packet) -> bool:
        return packet.protocol != TCP or packet.flags & door.mask == door.value
