# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets to completed doors: who has knocked how much of which sequence.

What counts as a knock
    A packet is a knock of a door if its port and protocol are in the door's sequence, its destination is one of
    `local`, or the door's target where it has one, and, for tcp, its flags fit the door's. Whatever else happens on the
    wire is
    ignored and voids nothing.

What a knock does, for each source address and each door on its own
    - The next knock of an attempt, port and protocol: the attempt goes on. The last knock opens the door.
    - The knock counted last again, as a retransmission: ignored. The first knock again: the window begins again.
    - Any other knock of any door, unless its destination or flags are not those of this one: the attempt is void. What
      advances one door may so void another.
    - The first knock of a door without an attempt, also if this packet has just voided it: an attempt begins, whatever
      other doors are in progress. (The knock that opens a door does not begin it as well.)
    The whole sequence must arrive within the door's seq_timeout, counted from the first knock.

What `classic` brings back of C knockd (both together are its rules)
    repeats  The knock counted last again is like any other wrong one: the attempt is void.
    doors    While a source has an attempt, no knock of it begins another, nor does the one that ends the attempt.

What it costs
    One look-up sorts out packets to other ports, a few more those of strangers, whatever the number of doors and
    knockers: doors with the same beginning walk together through one tree until their sequences part. What floods
    consist of, first knocks of strangers and repeated ones, is decided in `observe` itself, and all that begin at one
    `now` share one tuple; the rest is for `_judge`. While first knocks are not told, most of them are not even looked
    up: where they void whatever else their source has begun, the new attempt is laid over it. No call does more than
    a few milliseconds of work: `expire` goes in slices, or by generation, and `replace` leaves the attempts to be
    moved when they are next looked at.

What it holds, and what that guarantees
    At most `bound` knockers. They live in four generations of dictionaries: whoever knocks moves to the young one; when
    that holds a quarter of the bound, the next one begins, and the oldest one is dropped as a whole. So a knocker is
    forgotten only after `survives` = 3/4 bound others have begun since its last knock: by default 187,500, that is for
    3.7 s between two knocks under 50,000 spoofed first knocks a second, and for 0.9 s under 200,000. (Dropping the
    oldest by next(iter(dict)) is quadratic in CPython; one dictionary and a queue stall it for 17 ms to compact 250,000
    entries. A young generation that a core's cache can hold halves what a flood costs.)

Nothing here knows a clock, a socket or a log. Times are seconds of any clock that does not run backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any, NamedTuple, Optional

from .model import Door, Event, Opened, Settings, Stage, TimedOut
from .packet import TCP, UDP
from .sequence import Knock

TICKS = 10
"""Time-outs are told in steps of 1/TICKS seconds, so that a flood of them does not wake the daemon for each. That an
attempt is over is exact, whenever it is told."""

GENERATIONS = 4

SLICE = 2048
"""How many sources one call of `expire` looks at."""

NOTHING: Sequence[Event] = ()

Attempt = tuple["_Node", float, Any]
"""Where a source is in a tree, since when, and its other attempt or None. Nearly all have one: a plain tuple is the
smallest thing that can hold it."""

_new = tuple.__new__  # a third of the time of Stage(...), which goes through a Python function


class _Filter(NamedTuple):
    """Which packets to its ports a door counts."""

    mask: int
    value: int
    target: Optional[bytes]


class _Window:
    """What all trees with the same seq_timeout have in common: who begins now is due at the same time."""

    __slots__ = ("due", "latest", "now", "stale", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.now = -1.0
        self.due: list[bytes] = []
        """Where `expire` will find those that begin at `now`."""
        self.latest: tuple[Any, float, Any] = (None, self.now, None)
        """The attempt that began last: all that begin at the same time in the same tree share it."""
        self.stale = False
        """Whether the doors have been replaced since."""


class _Node:
    """A knock in the tree of sequences: all doors that begin with the knocks on the way here are at the same stage."""

    __slots__ = ("children", "depth", "doors", "filter", "knock", "opens", "root", "waiting", "window")

    def __init__(self, knock: int, filter: _Filter, window: _Window, parent: _Node | None) -> None:
        self.knock = knock
        self.filter = filter
        self.window = window
        self.depth: int = parent.depth + 1 if parent else 1
        self.root: _Node = parent.root if parent else self
        self.children: dict[int, _Node] = {}
        self.doors: list[Door] = []
        """All doors that pass here; those that end here open, the others wait for the next knock."""
        self.opens: list[Door] = []
        self.waiting: list[Door] = []


class _Port:
    """What a packet to a port of some door can mean. All that `observe` needs for a flood is near at hand here."""

    __slots__ = ("begins", "doors", "filters", "only", "roots", "window")

    def __init__(self, window: _Window) -> None:
        self.filters: tuple[_Filter, ...] = ()
        """Those of all doors that have this port, each once: a packet that fits none of them is no knock."""
        self.roots: tuple[_Node, ...] = ()
        """The trees that begin here."""
        self.only: _Node | None = None
        """The tree that begins here, if it is one, all that is a knock here fits it, and it only begins it."""
        self.begins = False
        """Whether a knock here can do nothing but begin `only`, whatever its source has done before."""
        self.doors: tuple[Door, ...] = ()
        """The doors of `only`."""
        self.window = window
        """The window of `only`."""


def _key(knock: Knock) -> int:
    return (TCP if knock.protocol == "tcp" else UDP) << 16 | knock.port


def _alone(knocks: Sequence[Knock]) -> bool:
    """Whether a sequence shares its tree with no other.

    One that holds its first knock again, or one knock twice in a row, does not: for it such a packet is progress, where
    for its neighbours it is a repetition or a beginning.
    """
    return knocks[0] in knocks[1:] or any(one == next for one, next in zip(knocks, knocks[1:]))


class Tracker:
    """The doors, and the state of everybody who knocks at them."""

    def __init__(self, doors: Iterable[Door], bound: int = Settings.knockers, classic: Iterable[str] = ()) -> None:
        self.remember(bound)
        self.tells_first = True
        """Whether first knocks of strangers are told: under a flood nobody could read them."""
        self.untold = 0
        """How many first knocks were not told, since the start."""
        self.forgotten = 0
        """How many knockers went because the bound was reached, since the start."""
        self.classic = frozenset(classic)
        """Words of model.CLASSIC; only "repeats" and "doors" mean something here. May change at any time."""
        # Where a source is in several generations, the youngest counts.
        self._young: dict[bytes, Attempt] = {}
        self._older: tuple[dict[bytes, Attempt], ...] = ()
        # When to look whose time is over: for each tick the sources to look at, and the ticks as a heap.
        self._due: dict[int, list[bytes]] = {}
        self._ticks: list[int] = []
        # Who begins untold is in no such list, but swept away with all others when the last of them is over.
        self._unplanned: Optional[float] = None
        self._to_sweep: list[dict[bytes, Attempt]] = []
        self._windows: dict[float, _Window] = {}
        self.local: frozenset[bytes] = frozenset()
        """The packed addresses that doors without a target listen on."""
        self._plant(doors)

    def __len__(self) -> int:
        """How many sources have an attempt, those included whose time-out is not told yet."""
        return len(self._young) + sum(map(len, self._older))

    def remember(self, bound: int) -> None:
        """Remember so many knockers at most, from now on."""
        self.bound = bound
        self._room = max(1, bound // GENERATIONS)
        self.survives = self._room * (GENERATIONS - 1)
        """How many first knocks of others a knock in progress survives, at least, between two of its own."""

    def guarantee(self) -> str:
        """Say in words what the bound means."""
        seconds = ", ".join(f"{self.survives / rate:.1f} s under {rate:,}" for rate in (10_000, 50_000, 200_000))
        return (
            f"at most {self.bound:,} knockers are remembered: a knock in progress survives {self.survives:,} first"
            f" knocks of others, {seconds} of them a second"
        )

    def observe(
        self, now: float, source: bytes, destination: bytes, protocol: int, port: int, flags: int
    ) -> Sequence[Event]:
        """Take in a packet (packed addresses, protocol 6 or 17, flags ignored for udp) and tell what it does."""
        place = self._ports[protocol][port]
        if place is None:
            return NOTHING
        for mask, value, target in place.filters:
            if flags & mask == value and (destination in self.local if target is None else destination == target):
                break
        else:
            return NOTHING

        young = self._young
        root = place.only
        window = place.window
        live: Attempt | None
        if root is not None and place.begins and not self.tells_first and not self.classic:
            live = window.latest
            if live[0] is not root or live[1] != now:
                live = self._first(root, now)
                self._unplanned = now
            if len(young) >= self._room and source not in young:
                young = self._next_generation()
            known = len(young)
            young[source] = live
            self.untold += len(young) - known
            return NOTHING
        attempts = young.get(source)
        moves = attempts is None
        older = young
        if moves:
            for older in self._older:
                attempts = older.get(source)
                if attempts is not None:
                    break
        events: Sequence[Event]
        if root is not None and (
            attempts is None
            or (
                attempts[0] is root
                and attempts[2] is None
                and now < attempts[1] + window.timeout
                and "repeats" not in self.classic
            )
        ):
            live = window.latest
            if live[0] is not root or live[1] != now:
                live = self._first(root, now)
            if len(window.due) < self.survives:
                window.due.append(source)
            events = NOTHING
            if attempts is None:
                if self.tells_first:
                    events = [_new(Stage, (source, door, 1)) for door in place.doors]
                else:
                    self.untold += 1
        elif attempts is None and not place.roots:
            return NOTHING
        else:
            live, events = self._judge(now, source, attempts, place, destination, protocol, port, flags)

        if live is None:
            if attempts is not None:
                self.drop(source)
            return events
        if moves:
            if attempts is not None:
                del older[source]
            if len(young) >= self._room:
                young = self._next_generation()
        young[source] = live
        return events

    def drop(self, source: bytes) -> None:
        """Forget every attempt of this source, without telling."""
        self._young.pop(source, None)
        for older in self._older:
            older.pop(source, None)

    def expire(self, now: float) -> list[TimedOut]:
        """Drop attempts whose window is over and tell them, SLICE at a time; to be called at `next_deadline`."""
        if now >= self._sweep_due():
            self._to_sweep, self._unplanned = [self._young, *self._older], None
        if self._to_sweep:
            self._sweep(now, self._to_sweep.pop())
            return []
        events: list[TimedOut] = []
        left = SLICE
        while left > 0 and self._ticks and self._ticks[0] / TICKS <= now:
            due = self._due[self._ticks[0]]
            sources = due[-left:]
            del due[-left:]
            if not due:
                del self._due[heappop(self._ticks)]
            left -= len(sources)
            for source in sources:
                events += self._end(now, source)
        if self._older and not self._older[-1]:
            self._older = self._older[:-1]
        return events

    def next_deadline(self) -> float | None:
        """Say when `expire` may next have something to do, 0 for at once; None while nobody knocks."""
        if self._to_sweep:
            return 0.0
        due = min(self._ticks[0] / TICKS if self._ticks else inf, self._sweep_due())
        return due if due < inf else None

    def replace(self, doors: Iterable[Door]) -> None:
        """Use these doors from now on; attempts at doors that keep name and sequence go on, in their new window."""
        self._plant(doors)

    def _first(self, root: _Node, now: float) -> Attempt:
        """Make the attempt that all share who begin there now."""
        window = root.window
        window.latest = (root, now, None)
        if window.now != now:
            window.now, window.due = now, self._due_at(now + window.timeout)
        return window.latest

    def _sweep_due(self) -> float:
        """Say when the last of those who began untold is over; infinite if there are none."""
        return inf if self._unplanned is None else self._unplanned + max(self._windows, default=0.0)

    def _next_generation(self) -> dict[bytes, Attempt]:
        """Begin a new one, and drop the oldest if there are too many."""
        kept = self._older[: GENERATIONS - 2]
        self.forgotten += sum(map(len, self._older)) - sum(map(len, kept))
        self._older = (self._young, *kept)
        self._young = {}
        return self._young

    def _sweep(self, now: float, generation: dict[bytes, Attempt]) -> None:
        """Drop all attempts that are over, without telling."""
        over = []
        for source, (node, began, more) in generation.items():
            if more is not None or node.window.stale:
                self._plan(source, now)  # not as simple as those that begin untold
            elif now >= began + node.window.timeout:
                over.append(source)
        if len(over) == len(generation):
            generation.clear()
            return
        for source in over:
            del generation[source]

    def _end(self, now: float, source: bytes) -> list[TimedOut]:
        """Drop those attempts of a source whose window is over."""
        generation = next((each for each in (self._young, *self._older) if source in each), self._young)
        attempt = generation.get(source)
        if attempt is not None and attempt[0].window.stale:
            attempt = self._moved(source, attempt)
        events: list[TimedOut] = []
        live: Attempt | None = None
        while attempt is not None:
            node, began, attempt = attempt
            if now >= began + node.window.timeout:
                events += [TimedOut(source, door, node.depth) for door in node.waiting]
            else:
                live = (node, began, live)
        if live is not None:
            generation[source] = live
        else:
            self.drop(source)
        return events

    def _judge(
        self,
        now: float,
        source: bytes,
        attempts: Attempt | None,
        place: _Port,
        destination: bytes,
        protocol: int,
        port: int,
        flags: int,
    ) -> tuple[Attempt | None, list[Event]]:
        """Tell what a knock of any kind brings about, and which attempts of its source live on."""
        knock = protocol << 16 | port
        local = destination in self.local
        events: list[Event] = []
        live: Attempt | None = None
        repeated: tuple[_Node, ...] = ()  # roots whose window begins again
        busy: tuple[_Node, ...] = ()  # roots of doors for which this packet is something else than a beginning
        engaged = False  # classic: nothing else begins
        attempt = attempts
        if attempt is not None and attempt[0].window.stale:
            attempt = self._moved(source, attempt)
        while attempt is not None:
            node, began, attempt = attempt
            mask, value, target = node.filter
            if now >= began + node.window.timeout:
                for door in node.waiting:
                    events.append(TimedOut(source, door, node.depth))
                continue
            if not (local if target is None else destination == target):
                live = (node, began, live)  # does not count for these doors
                continue
            engaged = "doors" in self.classic
            if protocol == TCP and flags & mask != value:
                live = (node, began, live)
                continue
            following = node.children.get(knock)
            if following is not None:
                busy += (node.root,)
                for door in following.doors:
                    events.append(Stage(source, door, following.depth))
                for door in following.opens:
                    events.append(Opened(source, door, began))
                if following.waiting:
                    live = (following, began, live)
            elif knock == node.knock and "repeats" not in self.classic:
                if node.depth == 1:
                    repeated += (node,)
                else:
                    busy += (node.root,)
                    live = (node, began, live)

        for node in place.roots:
            mask, value, target = node.filter
            if node in busy or (engaged and node not in repeated):
                continue
            if (protocol == TCP and flags & mask != value) or not (local if target is None else destination == target):
                continue
            if not engaged:
                for door in node.opens if node in repeated else node.doors:
                    events.append(Stage(source, door, 1))
                for door in node.opens:
                    events.append(Opened(source, door, now))
            if node.waiting:
                live = (node, now, live)
                self._plan(source, now + node.window.timeout)
        return live, events

    def _plant(self, doors: Iterable[Door]) -> None:
        """Grow the trees."""
        for window in self._windows.values():
            window.stale = True
        self._windows = {}
        roots: dict[tuple[object, ...], _Node] = {}
        # Every port of every door has a place: what has none is not a knock at all.
        self._ports: dict[int, list[_Port | None]] = {TCP: [None] * 65536, UDP: [None] * 65536}
        # Where each door passes, to find it again in `_moved`.
        self._paths: dict[tuple[str, tuple[Knock, ...]], list[list[_Node]]] = {}
        alike: dict[tuple[_Filter, ...], tuple[_Filter, ...]] = {}
        doors = [door for door in doors if door.sequence]  # the others' one-time sequences are used up
        for door in doors:
            filter = _Filter(*door.tcpflags, door.target.packed if door.target else None)
            window = self._windows.setdefault(door.seq_timeout, _Window(door.seq_timeout))
            path: list[_Node] = []
            for knock in door.sequence:
                key = _key(knock)
                protocol = key >> 16
                place = self._ports[protocol][knock.port]
                if place is None:
                    place = self._ports[protocol][knock.port] = _Port(window)
                counted = filter if protocol == TCP else _Filter(0, 0, filter.target)
                if counted not in place.filters:
                    place.filters += (counted,)
                    place.filters = alike.setdefault(place.filters, place.filters)
                if path:
                    node = path[-1].children.get(key)
                    if node is None:
                        node = path[-1].children[key] = _Node(key, filter, window, path[-1])
                else:
                    tree = (key, filter, door.seq_timeout, door.sequence if _alone(door.sequence) else None)
                    node = roots.get(tree)
                    if node is None:
                        node = roots[tree] = _Node(key, filter, window, None)
                        place.roots += (node,)
                node.doors.append(door)
                node.waiting.append(door)
                path.append(node)
            path[-1].waiting.pop()
            path[-1].opens.append(door)
            self._paths.setdefault((door.name, door.sequence), []).append(path)
        uniform = len({(door.tcpflags, door.target, door.seq_timeout) for door in doors}) == 1
        later = {_key(knock) for door in doors for knock in door.sequence[1:]}
        for root in roots.values():
            place = self._ports[root.knock >> 16][root.knock & 0xFFFF]
            plain = not root.opens and root.knock not in root.children
            if place and len(place.roots) == len(place.filters) == 1 and plain:
                place.only, place.doors, place.window = root, tuple(root.doors), root.window
                place.begins = uniform and root.knock not in later

    def _moved(self, source: bytes, attempts: Attempt) -> Attempt | None:
        """Find these attempts at older doors again among the doors of now, in their window."""
        live: Attempt | None = None
        attempt: Attempt | None = attempts
        while attempt is not None:
            node, began, attempt = attempt
            found: list[_Node] = []
            for door in node.waiting:
                for path in self._paths.get((door.name, door.sequence), ()):
                    new = path[node.depth - 1]
                    if new not in found:
                        found.append(new)
            for new in found:
                live = (new, began, live)
                if new.window.timeout != node.window.timeout:
                    self._plan(source, began + new.window.timeout)
        return live

    def _plan(self, source: bytes, deadline: float) -> None:
        """Look at this source when the deadline is over."""
        due = self._due_at(deadline)
        if len(due) < self.survives:
            due.append(source)

    def _due_at(self, deadline: float) -> list[bytes]:
        """Give the list of sources to look at when this deadline is over."""
        tick = int(deadline * TICKS) + 1
        due = self._due.get(tick)
        if due is None:
            # One who begins again and again is in a list each time. This shortens what is told, not what counts.
            while sum(map(len, self._due.values())) > self.bound:
                del self._due[heappop(self._ticks)]
            due = self._due[tick] = []
            heappush(self._ticks, tick)
        return due
