# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracker beside the model that the real C knockd is held to: traces without a network and without waiting."""

from __future__ import annotations

import random
from collections.abc import Iterable
from ipaddress import ip_address

import pytest

from knockd import model
from knockd.model import Opened, Stage, TcpFlags, TimedOut
from knockd.packet import TCP, Packet
from knockd.sequence import Knock
from knockd.tracker import Tracker

from . import traces
from .arena import packed
from .knockd_c import CLASSIC, Door, Model, Told

SERVER, TARGET = packed("198.18.0.1"), packed(traces.TARGET)
LONG_AFTER = 10.0
TRACES = 4000


def tracked(door: Door) -> model.Door:
    """A door of the model as the tracker knows it."""
    return model.Door(
        door.name,
        tuple(Knock(port, "tcp" if protocol == TCP else "udp") for protocol, port in door.sequence),
        seq_timeout=door.timeout,
        tcpflags=TcpFlags(door.mask, door.value),
        target=ip_address(door.target) if door.target else None,
    )


def lines(events: Iterable[model.Event]) -> list[Told]:
    """What the log would say."""
    said = []
    for event in events:
        if isinstance(event, Stage):
            said.append(Told(event.door.name, "Stage %d" % event.number))
        elif isinstance(event, Opened):
            said.append(Told(event.door.name, "OPEN SESAME"))
        elif isinstance(event, TimedOut):
            said.append(Told(event.door.name, "sequence timeout (stage %d)" % event.number))
    return said


@pytest.mark.parametrize("classic", [frozenset[str](), frozenset(("repeats", "doors"))], ids=["ours", "classic"])
@pytest.mark.parametrize(
    "seeds", [range(begin, begin + TRACES // 4) for begin in range(0, TRACES, TRACES // 4)], ids=str
)
def test_the_tracker_does_what_the_model_does(classic: frozenset[str], seeds: range) -> None:
    for seed in seeds:
        check(classic, random.Random(seed))


def check(classic: frozenset[str], chance: random.Random) -> None:
    """Plays some traces to both."""
    doors, _config = traces.doors(chance)
    source = packed("198.18.0.10")
    tracker = Tracker([tracked(door) for door in doors], classic=classic)
    tracker.local = frozenset((SERVER,))
    judge = Model(doors, tracker.local, CLASSIC if classic else frozenset())
    said: list[Told] = []
    now = 1000.0
    for _turn in range(3):
        for step in traces.trace(chance, doors).steps:
            now += step.pause
            destination = TARGET if step.to_target else SERVER
            packet = Packet(step.protocol, source, destination, step.port, step.flags)
            said += lines(tracker.expire(now))
            said += lines(tracker.observe(now, source, destination, step.protocol, step.port, step.flags))
            judge.observe(now, packet)
    said += lines(tracker.expire(now + LONG_AFTER))
    expected = judge.end(now + LONG_AFTER).get(source, [])
    in_order = []
    for told in expected:
        in_order.append(sorted(said[: len(told)]))
        del said[: len(told)]
    assert in_order == expected
    assert said == []
