# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets to completed doors: who has knocked how much of which sequence.

What counts as a knock
    A packet counts for a door if its destination is one of `local`, or the door's target where it has one, and if, for
    tcp, its flags fit the door's. Whatever else happens on the wire is ignored and voids nothing.

What a knock does, for each source address and each door on its own
    - The next knock of an attempt, port and protocol: the attempt goes on. The last knock opens the door.
    - The knock counted last again, as a retransmission: ignored. The first knock again: the window begins again.
    - Any other knock of any door: the attempt is void. What advances one door may so void another.
    - The first knock of a door without an attempt, also if this packet has just voided it: an attempt begins, whatever
      other doors are in progress. (The knock that opens a door does not begin it as well.)
    The whole sequence must arrive within the door's seq_timeout, counted from the first knock.

What it costs
    One look-up sorts out packets to other ports, one more those of strangers, whatever the number of doors and
    knockers: doors with the same beginning walk together through one tree until their sequences part.

What it holds
    At most `bound` knockers. They live in two generations of dictionaries: whoever knocks moves to the young one; when
    that holds bound / 2, it becomes the old one, and the old one is dropped as a whole. So a knocker is forgotten only
    after bound / 2 others have begun since its last knock: 125,000 by default, or 0.6 s between two knocks under
    200,000 spoofed first knocks a second. (Dropping the oldest by next(iter(dict)) is quadratic in CPython.)

Nothing here knows a clock, a socket or a log. Times are seconds of any clock that does not run backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

from .model import Door, Event, Opened, Stage, TimedOut
from .packet import TCP, UDP
from .sequence import Knock

TICKS = 10
"""Time-outs are told in steps of 1/TICKS seconds, so that a flood of them does not wake the daemon for each. That an
attempt is over is exact, whenever it is told."""

NOTHING: Sequence[Event] = ()

Attempt = tuple["_Node", float, Any]
"""Where a source is in a tree, until when, and its other attempt or None. Nearly all have one: a plain tuple is the
smallest thing that can hold it."""


class _Node:
    """A knock in the tree of sequences: all doors that begin with the knocks on the way here are at the same stage."""

    __slots__ = (
        "children",
        "depth",
        "doors",
        "knock",
        "mask",
        "opens",
        "root",
        "target",
        "timeout",
        "value",
        "waiting",
    )

    def __init__(self, door: Door, knock: int, parent: _Node | None) -> None:
        self.knock = knock
        self.depth: int = parent.depth + 1 if parent else 1
        self.root: _Node = parent.root if parent else self
        self.children: dict[int, _Node] = {}
        self.doors: list[Door] = []
        """All doors that pass here; those that end here open, the others wait for the next knock."""
        self.opens: list[Door] = []
        self.waiting: list[Door] = []
        # What all doors of one tree have in common:
        self.mask, self.value = door.tcpflags
        self.target = door.target.packed if door.target else None
        self.timeout = door.seq_timeout


def _key(knock: Knock) -> int:
    """The knock as `observe` sees it."""
    return (TCP if knock.protocol == "tcp" else UDP) << 16 | knock.port


def _tree_of(door: Door) -> tuple[object, ...]:
    """What doors must have in common to share a tree.

    A sequence that holds its first knock again, or one knock twice in a row, stays alone: for it such a packet is
    progress, where for its neighbours it is a repetition or a beginning.
    """
    knocks = door.sequence
    alone = knocks[0] in knocks[1:] or any(one == next for one, next in zip(knocks, knocks[1:]))
    return (door.tcpflags, door.target, door.seq_timeout, knocks if alone else None)


class Tracker:
    """The doors, and the state of everybody who knocks at them."""

    def __init__(self, doors: Iterable[Door], bound: int = 250_000) -> None:
        self.forgotten = 0
        """How many knockers went because the bound was reached, since the start."""
        self._generation = max(1, bound // 2)
        self._young: dict[bytes, Attempt] = {}
        self._old: dict[bytes, Attempt] = {}
        # When to look whose time is over: for each tick the sources to look at, and the ticks as a heap.
        self._due: dict[int, list[bytes]] = {}
        self._ticks: list[int] = []
        self._local: frozenset[bytes] = frozenset()
        self._plant(doors)

    def __len__(self) -> int:
        """How many sources have an attempt, those included whose time-out is not told yet."""
        return len(self._young) + len(self._old)

    @property
    def local(self) -> frozenset[bytes]:
        """The packed addresses that doors without a target listen on."""
        return self._local

    @local.setter
    def local(self, addresses: Iterable[bytes]) -> None:
        self._local = frozenset(addresses)
        self._destinations = self._local | self._targets

    def observe(
        self, now: float, source: bytes, destination: bytes, protocol: int, port: int, flags: int
    ) -> Sequence[Event]:
        """Take in a packet (addresses packed, protocol 6 or 17, flags 0 for udp) and tell what it brought about."""
        knock = protocol << 16 | port
        starts = self._starts.get(knock)
        if starts is None or destination not in self._destinations:
            return NOTHING
        attempts = self._young.get(source) or self._old.get(source)
        if attempts is None and not starts:
            return NOTHING

        local = destination in self._local
        events: list[Event] = []
        live: Attempt | None = None
        repeated: tuple[_Node, ...] = ()  # roots whose window begins again
        busy: tuple[_Node, ...] = ()  # roots of doors for which this packet is something else than a beginning
        attempt = attempts
        while attempt is not None:
            node, deadline, rest = attempt
            if now >= deadline:
                for door in node.waiting:
                    events.append(TimedOut(source, door, node.depth))
            elif (protocol == TCP and flags & node.mask != node.value) or not (
                local if node.target is None else destination == node.target
            ):
                live = (node, deadline, live)  # does not count for these doors
            else:
                following = node.children.get(knock)
                if following is not None:
                    busy += (node.root,)
                    for door in following.doors:
                        events.append(Stage(source, door, following.depth))
                    for door in following.opens:
                        events.append(Opened(source, door))
                    if following.waiting:
                        live = (following, deadline, live)
                elif knock == node.knock:
                    if node.depth == 1:
                        repeated += (node,)
                    else:
                        busy += (node.root,)
                        live = (node, deadline, live)
            attempt = rest

        for node in starts:
            if (protocol == TCP and flags & node.mask != node.value) or not (
                local if node.target is None else destination == node.target
            ):
                continue
            if node in busy:
                continue
            for door in node.opens if node in repeated else node.doors:
                events.append(Stage(source, door, 1))
            for door in node.opens:
                events.append(Opened(source, door))
            if node.waiting:
                deadline = now + node.timeout
                live = (node, deadline, live)
                tick = int(deadline * TICKS) + 1
                sources = self._due.get(tick)
                if sources is None:
                    self._add_tick(tick, source)
                elif len(sources) < self._generation:
                    sources.append(source)

        if live is not None:
            young = self._young
            if source not in young:
                if attempts is not None:
                    del self._old[source]
                if len(young) >= self._generation:
                    self.forgotten += len(self._old)
                    self._old = young
                    self._young = young = {}
            young[source] = live
        elif attempts is not None and self._young.pop(source, None) is None:
            del self._old[source]
        return events

    def drop(self, source: bytes) -> None:
        """Forget whatever this source has in progress, untold."""
        if self._young.pop(source, None) is None:
            self._old.pop(source, None)

    def expire(self, now: float) -> list[TimedOut]:
        """Drop the attempts whose window is over and tell them; call it when `next_deadline` has come."""
        events: list[TimedOut] = []
        while self._ticks and self._ticks[0] / TICKS <= now:
            sources = self._due.pop(heappop(self._ticks))
            for source in sources:
                generation = self._young if source in self._young else self._old
                attempt: Attempt | None = generation.get(source)
                live: Attempt | None = None
                while attempt is not None:
                    node, deadline, rest = attempt
                    if now >= deadline:
                        events += [TimedOut(source, door, node.depth) for door in node.waiting]
                    else:
                        live = (node, deadline, live)
                    attempt = rest
                if live is not None:
                    generation[source] = live
                else:
                    generation.pop(source, None)
        return events

    def next_deadline(self) -> float | None:
        """Say when `expire` may next have something to tell; None while nobody knocks."""
        return self._ticks[0] / TICKS if self._ticks else None

    def replace(self, doors: Iterable[Door]) -> None:
        """Use these doors from now on; attempts at doors that keep name and sequence go on, with their deadline."""
        self._plant(doors)
        moved: dict[_Node, list[_Node]] = {}

        def move(attempts: Attempt) -> Attempt | None:
            live: Attempt | None = None
            attempt: Attempt | None = attempts
            while attempt is not None:
                node, deadline, attempt = attempt
                if node not in moved:
                    moved[node] = self._same(node)
                for new in moved[node]:
                    live = (new, deadline, live)
            return live

        for generation in (self._young, self._old):
            for source, attempts in list(generation.items()):
                live = move(attempts)
                if live is None:
                    del generation[source]
                else:
                    generation[source] = live

    def _plant(self, doors: Iterable[Door]) -> None:
        """Grow the trees."""
        roots: dict[tuple[object, ...], _Node] = {}
        starts: dict[int, list[_Node]] = {}
        self._targets: set[bytes] = set()
        # Where each door passes, to find it again in `replace`.
        self._paths: dict[tuple[str, tuple[Knock, ...]], list[list[_Node]]] = {}
        for door in doors:
            if not door.sequence:  # its one-time sequences are used up
                continue
            node: _Node | None = None
            path: list[_Node] = []
            for knock in map(_key, door.sequence):
                starts.setdefault(knock, [])
                if node is None:
                    tree = (knock, *_tree_of(door))
                    following = roots.get(tree)
                    if following is None:
                        following = roots[tree] = _Node(door, knock, None)
                        starts[knock].append(following)
                else:
                    following = node.children.get(knock)
                    if following is None:
                        following = node.children[knock] = _Node(door, knock, node)
                node = following
                node.doors.append(door)
                node.waiting.append(door)
                path.append(node)
            path[-1].waiting.pop()
            path[-1].opens.append(door)
            self._paths.setdefault((door.name, door.sequence), []).append(path)
            if door.target:
                self._targets.add(door.target.packed)
        # Every port of every door is a key: what is not in here is not a knock at all.
        self._starts: dict[int, tuple[_Node, ...]] = {knock: tuple(nodes) for knock, nodes in starts.items()}
        self._destinations = self._local | self._targets

    def _same(self, node: _Node) -> list[_Node]:
        """Find where the doors that wait at a node of the old trees wait in the new ones."""
        found: list[_Node] = []
        for door in node.waiting:
            for path in self._paths.get((door.name, door.sequence), ()):
                if path[node.depth - 1] not in found:
                    found.append(path[node.depth - 1])
        return found

    def _add_tick(self, tick: int, source: bytes) -> None:
        """Plan to look at this source, and at those that will be added to the tick, when their deadlines are over."""
        self._due[tick] = [source]
        heappush(self._ticks, tick)
        # One who begins again and again is in a list each time. This shortens what is told, not what counts.
        while sum(map(len, self._due.values())) > 2 * self._generation:
            del self._due[heappop(self._ticks)]
