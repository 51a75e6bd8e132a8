# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doors and packet traces by chance: right and nearly right knocks of several sources, entangled. Pure."""

from __future__ import annotations

import random
from typing import NamedTuple

from knockd.packet import TCP, UDP

from .knockd_c import Door

SYN, ACK = 2, 16
FLAGS = {"": (0, 0), "syn": (SYN, SYN), "syn,!ack": (SYN | ACK, SYN), "!fin": (1, 0)}
TARGET = "198.19.255.9"
"""Nobody's address, for doors with a target."""
MOST_STRAYS = 4
"""Fewer than Strays, its default: what a trace may touch of other ports without being a scan."""
CLEARANCE = 0.45
"""Seconds by which a trace keeps clear of the end of a window, where delays of the daemon decide."""


class Step(NamedTuple):
    """One packet of a trace."""

    pause: float
    """Seconds after the step before it."""
    source: int
    """Which of the trace's sources."""
    protocol: int
    port: int
    flags: int
    to_target: bool = False


class Trace(NamedTuple):
    """What some sources send, one after the other."""

    families: tuple[int, ...]
    """4 or 6 for each source."""
    steps: tuple[Step, ...]
    scans: bool = False
    """Whether a source touches more stray ports than a knocker may."""

    def __str__(self) -> str:
        return "\n".join(
            "    after %.3f s, source %d (IPv%d)%s: %d/%s flags %#04x"
            % (
                *(step.pause, step.source, self.families[step.source], " to the target" if step.to_target else ""),
                *(step.port, "tcp" if step.protocol == TCP else "udp", step.flags),
            )
            for step in self.steps
        )


def doors(chance: random.Random) -> tuple[tuple[Door, ...], str]:
    """Some doors that share their ports, and their sections of knockd.conf; DIR is where commands leave traces."""
    ports = chance.sample(range(20000, 30000), chance.randrange(4, 8))
    knocks = [(chance.choice((TCP, TCP, TCP, UDP)), port) for port in ports]
    made: list[Door] = []
    text = ""
    while len(made) < 5:
        sequence = tuple(chance.choice(knocks) for _ in range(chance.choice((1, 2, 3, 3, 3, 4, 5))))
        if made and len(sequence) > 2 and chance.random() < 0.4:
            sequence = made[-1].sequence[: chance.randrange(1, 3)] + sequence[:3]
        target = chance.random() < 0.15
        if any(sequence == door.sequence for door in made):
            continue
        flags = chance.choice(("", "syn", "syn", "syn,!ack", "!fin"))
        timeout = chance.choice((2, 3))
        name = "door%d" % len(made)
        made.append(
            Door(name, sequence, timeout, *FLAGS[flags], bytes(map(int, TARGET.split("."))) if target else None)
        )
        items = ",".join("%d:%s" % (port, "tcp" if protocol == TCP else "udp") for protocol, port in sequence)
        text += "\n[%s]\n    sequence = %s\n    seq_timeout = %d\n" % (name, items, timeout)
        text += "    tcpflags = %s\n" % flags if flags else ""
        text += "    target = %s\n" % TARGET if target else ""
        text += "    start_command = echo start %%IP%% %s >> DIR/done\n" % name
        if chance.random() < 0.5:
            text += "    cmd_timeout = 1\n    stop_command = echo stop %%IP%% %s >> DIR/done\n" % name
    return tuple(made), text


def trace(chance: random.Random, doors: tuple[Door, ...]) -> Trace:
    """Some sources, each with a knock or two that may be wrong, and now and then a long pause."""
    queues = [_knocks(chance, doors, source) for source in range(chance.choice((1, 1, 1, 2, 3)))]
    scans = chance.random() < 0.08
    if scans:
        for step in range(chance.randrange(12, 20)):
            queues[0].insert(chance.randrange(len(queues[0]) + 1), Step(0, 0, TCP, 31000 + step, SYN))
    steps: list[Step] = []
    while any(queues):
        steps.append(chance.choice([queue for queue in queues if queue]).pop(0))
    if len(steps) > 1 and chance.random() < 0.35:  # a long pause: some windows end in it, others just do not
        place = chance.randrange(1, len(steps))
        pauses = [
            pause
            for pause in (0.6, 0.9, 1.2, 1.5, 2.5, 3.5)
            if all(abs(pause - door.timeout) >= CLEARANCE for door in doors)
        ]
        steps[place] = steps[place]._replace(pause=chance.choice(pauses))
    families = tuple(chance.choice((4, 4, 6)) for _ in queues)
    steps = [step._replace(to_target=step.to_target and families[step.source] == 4) for step in steps]
    return Trace(families, tuple(steps), scans)


def _knocks(chance: random.Random, doors: tuple[Door, ...], source: int) -> list[Step]:
    """One source's packets."""
    steps: list[Step] = []
    for door in chance.sample(doors, chance.choice((1, 1, 2))):
        to_target = bool(door.target) if chance.random() < 0.9 else not door.target
        for protocol, port in door.sequence:
            flags = SYN if chance.random() < 0.93 else chance.choice((ACK, SYN | ACK, 1, SYN | 1, 4, 0))
            steps.append(
                Step(chance.choice((0, 0, 0.001, 0.02)), source, protocol, port, flags * (protocol == TCP), to_target)
            )
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        place = chance.randrange(len(steps))
        what = chance.randrange(6)
        if what == 0:  # what the network does with a packet
            steps.insert(place, steps[place])
        elif what == 1 and len(steps) > 1:
            del steps[place]
        elif what == 2:
            other = chance.randrange(len(steps))
            steps[place], steps[other] = steps[other], steps[place]
        elif what == 3:
            protocol, port = chance.choice(chance.choice(doors).sequence)
            steps.insert(place, Step(0, source, protocol, port, SYN * (protocol == TCP), steps[place].to_target))
        elif what == 4:
            steps[place] = steps[place]._replace(protocol=TCP + UDP - steps[place].protocol, flags=0)
        else:
            for stray in range(chance.randrange(1, MOST_STRAYS // 2 + 1)):
                steps.insert(place, Step(0, source, TCP, 31500 + chance.randrange(2) * 10 + stray, SYN))
    return steps
