# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Full sweeps against the tracker alone: what it keeps shut, and what only the count of stray ports does."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from knockd.model import Door, Opened, TcpFlags
from knockd.packet import TCP
from knockd.sequence import Knock, generate, odds, parse_sequence, scan_odds, sweep_hits
from knockd.tracker import Tracker

SYN = 2
ME, SCANNER = b"\xc6\x12\x00\x01", b"\xc6\x12\x00\x02"
PORTS = range(1, 65536)


def strong_doors(count: int) -> Iterator[Door]:
    """Doors as role knockd makes them: 5 knocks, no order; no two have a port in common, as far as there are ports."""
    chance = random.Random(1)
    while count:
        ports = chance.sample(PORTS, 60_000)
        for place in range(0, 60_000, 5):
            knocks = tuple(Knock(port, "tcp") for port in ports[place : place + 5])
            if count and not sweep_hits(knocks):
                count -= 1
                yield Door("d%d" % count, knocks, 25.0, TcpFlags(SYN | 16, SYN))


def listening(doors: Iterable[Door]) -> Tracker:
    tracker = Tracker(doors)
    tracker.local = frozenset((ME,))
    return tracker


def swept(tracker: Tracker, ports: Iterable[int], now: float = 1000.0) -> list[str]:
    """The doors that a scan of these ports opens, all within one window."""
    events = (event for port in ports for event in tracker.observe(now, SCANNER, ME, TCP, port, SYN))
    return [event.door.name for event in events if isinstance(event, Opened)]


def flood(tracker: Tracker, doors: list[Door], count: int = 300_000) -> None:
    """First knocks of spoofed sources, more than the bound."""
    for number in range(count):
        port = doors[number % len(doors)].sequence[0].port
        tracker.observe(999.0, number.to_bytes(4, "little"), ME, TCP, port, SYN)
    assert tracker.forgotten


@pytest.mark.parametrize("flooded", [False, True])
def test_no_sweep_opens_one_of_a_thousand_doors(flooded: bool) -> None:
    doors = list(strong_doors(1000))
    tracker = listening(doors)
    if flooded:
        flood(tracker, doors)
    assert swept(tracker, PORTS) == []
    assert swept(tracker, reversed(PORTS)) == []
    chance = random.Random(2)
    for _ in range(5):
        assert swept(tracker, chance.sample(PORTS, len(PORTS))) == []
    # The same doors do open for who knows them, also between the scanner's packets.
    for door in doors[:10]:
        assert swept(tracker, [knock.port for knock in door.sequence]) == [door.name]


def test_alone_a_door_opens_for_random_sweeps_as_often_as_its_odds_say() -> None:
    """What the tracker does not do: without other doors, and without the count of strays, order is all there is."""
    knocks = parse_sequence("20113,11873,28391")
    door, chance, sweeps = Door("ssh", knocks, 25.0), random.Random(3), 3000
    tracker, ports = listening((door,)), [knock.port for knock in knocks]
    # Ports of no door do nothing: leaving them out changes nothing but the time that this takes.
    assert swept(tracker, [port for port in PORTS if port not in ports]) == []
    hits = sum(len(swept(tracker, chance.sample(ports, 3), 1000.0 * number)) for number in range(2, sweeps))
    assert scan_odds(knocks) == 6
    assert abs(hits - sweeps / 6) < 5 * (sweeps / 6) ** 0.5


def test_alone_a_sequence_in_order_opens_for_a_sweep_and_is_called_weak() -> None:
    knocks = parse_sequence("7000,8000,9000")
    assert swept(listening((Door("ssh", knocks),)), PORTS) == ["ssh"]
    assert swept(listening((Door("ssh", knocks),)), reversed(PORTS)) == []
    assert sweep_hits(knocks)
    assert "every time" in odds(knocks, None)


def test_other_doors_in_between_void_a_sweep() -> None:
    doors = [Door("ssh", parse_sequence("7000,8000,9000")), Door("bait", parse_sequence("8500,500,100"))]
    assert swept(listening(doors), PORTS) == []


def test_generated_sequences_open_for_no_sweep_in_order() -> None:
    for _ in range(20):
        door = Door("ssh", generate(3))
        for ports in (PORTS, reversed(PORTS)):
            assert swept(listening((door,)), ports) == []
