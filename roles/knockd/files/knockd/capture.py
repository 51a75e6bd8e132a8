# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interfaces to packets: which sockets there are, and which kind of each.

There is one socket for each interface and IP version. While little comes, it is a plain one, which costs no memory.
When much comes, or more than is read, one with a ring takes over, until it is quiet again. What comes by a ring is left
to gather for a moment: for us and for the sender a wake-up costs more than a packet.

What counts as quiet is far below what counts as loaded, so that a steady load does not change sockets to and fro.
"""

from __future__ import annotations

import errno
import selectors
import time
from functools import partial
from typing import Callable, Collection, Dict, Iterable, List, Optional, Set

from . import bpf
from .links import ANY, Links
from .model import Door
from .packet import Packet
from .tap import BATCH, Tap

LOADED = 4
"""Turns in a row that left packets waiting, when a ring takes over."""
BUSY = 20_000
"""Packets within a second, when a ring takes over."""
GATHER = 0.0005
"""Seconds for which a ring that was read to its end is left alone; it has room for what comes in much longer."""
QUIET = BATCH
"""Packets within LULL, when a plain socket takes over again."""
LULL = 2.0
"""Seconds."""

_DEAF = bpf.pack([(bpf.RETURN, 0, 0, 0)])


class CaptureError(Exception):
    """The kernel does not let us listen; the message says why."""


class _Line:
    """What is heard on one interface in one IP version."""

    def __init__(self, interface: int, version: int) -> None:
        self.interface = interface
        self.version = version
        self.elsewhere: Set[int] = set()
        """The other interfaces that are listened on: what is taken up there is not heard here too."""
        self.taps: List[Tap] = []
        """The last one receives; one before it has been relieved, and is read first, until it is drained."""
        self.group: Optional[int] = None
        self.overrun = 0
        """Turns in a row that left packets waiting."""
        self.checked = (0.0, 0)
        """When the packets were counted, and how many they were."""
        self.program = b""
        self.is_coarse = False
        """Whether the kernel had no room for the exact filter."""
        self.tries_again = False
        """Whether it may have room when the relieved socket is gone."""


class Capture:
    """Listens on the interfaces that exist now and takes up the others when they appear."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        doors: Collection[Door],
        on_packets: Callable[[Iterable[Packet]], None],
        say: Callable[[str], None],
        versions: Iterable[int] = (4, 6),
    ) -> None:
        self._selector = selector
        self._doors = doors
        self._on_packets = on_packets
        self._say = say
        self._versions = tuple(versions)
        self._lines: Dict[str, List[_Line]] = {}
        self._dropped = 0
        self._rings = True
        self._coarse = False

    def follow(self, names: Iterable[str], links: Links) -> None:
        """Makes the sockets agree with the interfaces that `links` knows now. Raises CaptureError."""
        wanted = {name: links.index(name) for name in names}
        if ANY in wanted:
            wanted = {ANY: 0}
        for name, lines in list(self._lines.items()):
            # A new interface of the old name has another index: the old socket stays deaf.
            if wanted.get(name) != lines[0].interface:
                self._close(name)
                if name in wanted:
                    self._say("%s: gone, waiting for it to come back" % name)
        indices = {index for index in wanted.values() if index is not None}
        for lines in self._lines.values():
            for line in lines:
                if line.elsewhere != indices - {line.interface}:
                    line.elsewhere = indices - {line.interface}
                    self._filter(line)
        for name, index in wanted.items():
            if index is not None and name not in self._lines:
                self._open(name, index, indices - {index})

    def listening(self) -> List[str]:
        """The names of the interfaces that are listened on now."""
        return sorted(self._lines)

    def set_doors(self, doors: Collection[Door]) -> None:
        """Listens to the ports of these doors from now on; packets that wait already stay. Raises CaptureError."""
        self._doors = doors
        for line in self._every_line():
            self._filter(line)

    def drops(self) -> int:
        """How many packets to the doors' ports the kernel dropped since the start, because too many waited."""
        self._dropped += sum(tap.drops() for line in self._every_line() for tap in line.taps)
        return self._dropped

    def pause(self) -> float:
        """Seconds that the loop may sleep so that packets gather; 0 where each of them is worth a wake-up."""
        taps = [tap for line in self._every_line() for tap in line.taps]
        gathers = any(tap.has_ring for tap in taps) and all(tap.drained for tap in taps)
        return GATHER if gathers else 0.0

    def next_deadline(self) -> Optional[float]:
        """When `on_time` has something to do; None while all sockets are plain ones."""
        deadlines = []
        for line in self._every_line():
            if len(line.taps) > 1:
                return 0.0
            if line.taps[0].has_ring:
                deadlines.append(line.checked[0] + LULL)
        return min(deadlines, default=None)

    def on_time(self, now: float) -> None:
        """Reads relieved sockets to their end, and gives back rings that are not needed any more."""
        for line in self._every_line():
            if len(line.taps) > 1:
                self._read(line, line.taps[0])
            elif line.taps[0].has_ring and now >= line.checked[0] + LULL:
                received = line.taps[0].received
                if received - line.checked[1] < QUIET:
                    self._change(line, ring=False)
                else:
                    line.checked = (now, received)

    def close(self) -> None:
        for name in list(self._lines):
            self._close(name)

    # One interface.

    def _every_line(self) -> List[_Line]:
        return [line for lines in self._lines.values() for line in lines]

    def _open(self, name: str, index: int, elsewhere: Set[int]) -> None:
        lines: List[_Line] = []
        self._lines[name] = lines
        try:
            for version in self._versions:
                line = _Line(index, version)
                line.elsewhere = elsewhere
                tap = Tap(index, version)
                line.taps.append(tap)
                lines.append(line)
                self._selector.register(tap, selectors.EVENT_READ, partial(self._read, line))
                self._filter(line)
                tap.bind()
                line.group = _found(tap)
        except OSError as error:
            self._close(name)
            # Otherwise it went away meanwhile; links will tell when it is back.
            if error.errno not in (errno.ENODEV, errno.ENXIO):
                raise CaptureError("cannot listen on %s: %s" % (name, error.strerror)) from error

    def _close(self, name: str) -> None:
        for line in self._lines.pop(name):
            while line.taps:
                self._drop(line)

    def _drop(self, line: _Line) -> None:
        """Closes the line's oldest socket."""
        tap = line.taps.pop(0)
        self._dropped += tap.drops()
        self._selector.unregister(tap)
        tap.close()

    def _read(self, line: _Line, _tap: Tap) -> None:
        if not line.taps:
            return  # closed by what was handled before it in this turn: its interface is gone
        tap = line.taps[0]
        self._on_packets(tap.packets())
        if len(line.taps) > 1:
            if tap.drained:
                self._drop(line)
                if line.tries_again:
                    self._filter(line)
            return
        line.overrun = 0 if tap.drained else line.overrun + 1
        if self._rings and not tap.has_ring and (line.overrun >= LOADED or self._is_busy(line)):
            self._change(line, ring=True)

    @staticmethod
    def _is_busy(line: _Line) -> bool:
        received = line.taps[0].received
        if received - line.checked[1] < BUSY:
            return False
        before, now = line.checked[0], time.monotonic()
        line.checked = (now, received)
        return now - before < 1

    # One socket after the other.

    def _filter(self, line: _Line) -> None:
        """Gives the line the most exact filter for which the kernel has room."""
        exact, crowded = True, len(line.taps) > 1
        for instructions in bpf.programs(self._doors, line.version, line.elsewhere):
            program = bpf.pack(instructions)
            if self._swap(line, program):
                line.program = program
                break
            exact = False
        else:
            raise CaptureError("the kernel has no room for a packet filter; raise net.core.optmem_max")
        line.is_coarse, line.tries_again = not exact, crowded and not exact
        said = self._coarse
        self._coarse = any(one.is_coarse and not one.tries_again for one in self._every_line())
        if self._coarse and not said:
            self._say("the kernel's filter is coarse: more packets pass than need to; raise net.core.optmem_max")

    def _swap(self, line: _Line, program: bytes) -> bool:
        """Whether the kernel has room for this filter: beside the old one here, or at a new socket."""
        try:
            try:
                line.taps[-1].filter(program)
            except OSError as error:
                if error.errno != errno.ENOMEM or not line.program or len(line.taps) > 1:
                    raise
                self._relieve(line, program)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise CaptureError("the kernel refuses the packet filter: %s" % error.strerror) from error
            return False
        return True

    def _change(self, line: _Line, ring: bool) -> None:
        """Goes on with a socket of the other kind, if there is memory for it."""
        try:
            self._relieve(line, line.program, ring)
        except OSError as error:
            self._rings = False
            self._say("no memory is shared with the kernel: %s" % error.strerror)

    def _relieve(self, line: _Line, program: bytes, ring: bool = False) -> None:
        """A new socket takes over: not one packet is lost, and none comes twice. Raises OSError."""
        old, new = line.taps[0], Tap(line.interface, line.version)
        try:
            if ring:
                new.map_ring()
            new.filter(_DEAF)  # until the group gives it its share of the packets, which is none yet
            new.bind()
            try:
                group = old.found() if line.group is None else line.group
                old.steer(0)
                new.join(group)
            except OSError:  # the interface is down, on a kernel before 6.13: nothing comes that could be lost
                group = None
                new.filter(program)
                old.filter(_DEAF)
            else:
                new.filter(program)
                old.steer(1)
        except OSError:
            new.close()
            raise
        line.group = group
        line.overrun = 0
        line.checked = (time.monotonic(), 0)
        line.taps.append(new)
        self._selector.register(new, selectors.EVENT_READ, partial(self._read, line))


def _found(tap: Tap) -> Optional[int]:
    """The number of the tap's group; None while its interface is down, on a kernel before 6.13."""
    try:
        return tap.found()
    except OSError:
        return None
