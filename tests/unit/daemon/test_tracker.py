# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracker: which packets open a door, which do not, and that nobody can disturb anybody else."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knockd.model import Door, Event, Opened, Stage, TcpFlags, TimedOut
from knockd.packet import TCP, UDP
from knockd.sequence import Knock, parse_sequence
from knockd.tracker import Tracker

FIN, SYN, ACK = 1, 2, 16
ME, OTHER = ip_address("198.18.0.1").packed, ip_address("198.18.0.99").packed
ME_6 = ip_address("fd00:5e5a::1").packed
ALICE, BOB = ip_address("198.18.0.2").packed, ip_address("198.18.0.3").packed
CAROL_6 = ip_address("fd00:5e5a::2").packed


def door(name: str, sequence: str, **rest: object) -> Door:
    return Door(name, parse_sequence(sequence), **{"seq_timeout": 5.0, **rest})  # type: ignore[arg-type]


SSH = door("ssh", "7,3,9")


class Wire:
    """A tracker and a clock: knocks arrive a tenth of a second apart."""

    def __init__(self, *doors: Door, bound: int = 250_000) -> None:
        self.tracker = Tracker(doors, bound)
        self.tracker.local = frozenset((ME, ME_6))
        self.now = 1000.0

    def knock(
        self, *ports: int, source: bytes = ALICE, to: bytes | None = None, protocol: int = TCP, flags: int = SYN
    ) -> list[Event]:
        events: list[Event] = []
        for port in ports:
            self.now += 0.1
            destination = to or (ME if len(source) == 4 else ME_6)
            flags = flags if protocol == TCP else 0
            events += self.tracker.observe(self.now, source, destination, protocol, port, flags)
        return events

    def opens(self, *ports: int, source: bytes = ALICE, **rest: object) -> list[str]:
        return opened(self.knock(*ports, source=source, **rest))  # type: ignore[arg-type]


def opened(events: Iterable[Event]) -> list[str]:
    return [event.door.name for event in events if isinstance(event, Opened)]


# Who gets in


def test_the_sequence_opens_its_door_and_every_stage_is_told() -> None:
    events = Wire(SSH).knock(7, 3, 9)
    assert events == [Stage(ALICE, SSH, 1), Stage(ALICE, SSH, 2), Stage(ALICE, SSH, 3), Opened(ALICE, SSH)]


def test_ipv6_opens_as_ipv4_does() -> None:
    assert Wire(SSH).opens(7, 3, 9, source=CAROL_6) == ["ssh"]


def test_the_same_sequence_opens_again() -> None:
    assert Wire(SSH).opens(7, 3, 9, 7, 3, 9) == ["ssh", "ssh"]


@pytest.mark.parametrize("ports", [(7, 9, 3), (9, 3, 7), (3, 9), (7, 3), (7, 9), (7, 3, 7, 9), (7, 3, 3, 7, 9)])
def test_another_order_opens_nothing(ports: tuple[int, ...]) -> None:
    assert Wire(SSH).opens(*ports) == []


def test_two_addresses_do_not_make_one_knocker() -> None:
    wire = Wire(SSH)
    wire.knock(7, 3)
    assert wire.opens(9, source=BOB) == []


def test_a_single_knock_door_opens_with_each_packet() -> None:
    assert Wire(door("bell", "7")).opens(7, 7) == ["bell", "bell"]


def test_a_door_whose_sequences_are_used_up_never_opens() -> None:
    wire = Wire(Door("once", ()))
    assert wire.knock(0, 7) == []


# What voids a knock


def test_a_wrong_knock_voids_the_attempt() -> None:
    wire = Wire(SSH, door("web", "11,12,13"))
    assert wire.opens(7, 3, 12, 9) == []


def test_a_voiding_first_knock_begins_anew() -> None:
    assert Wire(SSH).opens(7, 3, 7, 3, 9) == ["ssh"]


def test_ports_of_no_door_void_nothing() -> None:
    assert Wire(SSH).opens(7, 22, 443, 3, 1, 9) == ["ssh"]


def test_a_stranger_cannot_void_my_knock() -> None:
    wire = Wire(SSH)
    wire.knock(7)
    wire.knock(7, 9, 9, 3, source=BOB)
    wire.knock(7, 3, 9, source=CAROL_6)
    wire.knock(3)
    wire.now += 1
    wire.knock(7, 7, 9, source=BOB)
    assert wire.opens(9) == ["ssh"]


def test_a_strangers_timeout_does_not_end_my_knock() -> None:
    wire = Wire(SSH)
    wire.knock(7, source=BOB)
    wire.now += 4
    wire.knock(7, 3)
    wire.now += 2
    assert [event.source for event in wire.tracker.expire(wire.now)] == [BOB]
    assert wire.opens(9) == ["ssh"]


def test_a_retransmitted_knock_is_ignored() -> None:
    assert Wire(SSH).opens(7, 7, 3, 3, 3, 9) == ["ssh"]


def test_a_retransmission_is_told_once() -> None:
    assert Wire(SSH).knock(7, 7, 7, 3, 3) == [Stage(ALICE, SSH, 1), Stage(ALICE, SSH, 2)]


def test_a_retransmission_of_the_last_knock_does_not_open_twice() -> None:
    assert Wire(SSH).opens(7, 3, 9, 9) == ["ssh"]


def test_the_protocol_must_match() -> None:
    wire = Wire(door("mixed", "7:udp,3:tcp"))
    assert wire.opens(7, 3) == []
    wire.knock(7, protocol=UDP)
    wire.knock(3, protocol=UDP)
    assert wire.opens(3) == ["mixed"]


def test_the_same_port_over_the_other_protocol_voids_if_a_door_has_it() -> None:
    wire = Wire(door("tcp", "7,3,9"), door("udp", "3:udp,8:udp"))
    wire.knock(7)
    wire.knock(3, protocol=UDP)
    assert wire.opens(3, 9) == []


# Flags


def test_packets_without_the_flags_are_ignored_and_void_nothing() -> None:
    wire = Wire(door("ssh", "7,3,9", tcpflags=TcpFlags(SYN | ACK, SYN)))
    wire.knock(7)
    assert wire.knock(9, 3, 7, flags=ACK) == []
    assert wire.knock(3, flags=SYN | ACK) == []
    assert wire.opens(3, 9, flags=SYN | FIN) == ["ssh"]


def test_a_packet_that_one_door_ignores_voids_another() -> None:
    wire = Wire(door("syn", "7,3", tcpflags=TcpFlags(SYN, SYN)), door("any", "7,9,3"))
    wire.knock(7)
    wire.knock(3, flags=ACK)
    assert wire.opens(9, 3) == []
    wire.knock(7)
    wire.knock(7, flags=ACK)
    assert wire.opens(3) == ["syn"]


def test_flags_mean_nothing_for_udp() -> None:
    wire = Wire(door("udp", "7:udp,3:udp", tcpflags=TcpFlags(SYN, SYN)))
    assert wire.opens(7, 3, protocol=UDP) == ["udp"]


# Destinations


def test_only_packets_to_this_host_count() -> None:
    wire = Wire(SSH)
    assert wire.knock(7, 3, 9, to=OTHER) == []
    wire.knock(7)
    wire.knock(9, to=OTHER)
    assert wire.opens(3, 9) == ["ssh"]


def test_a_target_counts_in_place_of_the_own_addresses() -> None:
    wire = Wire(door("wake", "7,3,9", target=ip_address(OTHER)))
    assert wire.knock(7, 3, 9) == []
    assert wire.opens(7, 3, 9, to=OTHER) == ["wake"]


def test_a_door_with_a_target_and_one_without_do_not_disturb_each_other() -> None:
    wire = Wire(SSH, door("wake", "7,3,9", target=ip_address(OTHER)))
    wire.knock(7)
    wire.knock(7, 3, to=OTHER)
    assert wire.opens(3, 9) == ["ssh"]
    assert wire.opens(9, to=OTHER) == ["wake"]


def test_an_address_that_comes_later_counts_from_then_on() -> None:
    wire = Wire(SSH)
    wire.tracker.local = frozenset()
    assert wire.knock(7, 3, 9) == []
    wire.tracker.local = frozenset((ME,))
    assert wire.opens(7, 3, 9) == ["ssh"]


# Several doors


def test_while_one_door_is_in_progress_another_can_begin() -> None:
    wire = Wire(SSH, door("web", "11,12,13"))
    wire.knock(7)
    assert wire.opens(11, 12, 13) == ["web"]


def test_doors_with_one_beginning_are_in_progress_together() -> None:
    doors = (SSH, door("web", "7,3,10"), door("vpn", "7,4,9"), door("short", "7,3"))
    assert Wire(*doors).opens(7, 3, 9) == ["short", "ssh"]
    assert Wire(*doors).opens(7, 3, 10) == ["short", "web"]
    assert Wire(*doors).opens(7, 4, 9) == ["vpn"]
    assert Wire(*doors).opens(7, 3, 4, 9) == ["short"]
    told = [event.door.name for event in Wire(*doors).knock(7) if isinstance(event, Stage)]
    assert told == ["ssh", "web", "vpn", "short"]


def test_a_knock_that_advances_one_door_voids_the_others() -> None:
    wire = Wire(door("one", "1,2,5,3"), door("two", "2,5,4"))
    assert wire.opens(1, 2, 5, 4) == ["two"]
    assert wire.opens(3) == []


def test_the_end_of_one_door_can_begin_another() -> None:
    wire = Wire(SSH, door("next", "9,5"))
    assert wire.opens(7, 3, 9, 5) == ["ssh", "next"]


def test_a_knock_that_opens_a_door_does_not_begin_it_too() -> None:
    assert Wire(door("loop", "7,3,7")).opens(7, 3, 7, 3, 7) == ["loop"]


@pytest.mark.parametrize("sequence", ["7,7,3", "7,7,7", "7,3,3,9", "7,3,7,9"])
def test_a_sequence_may_repeat_knocks(sequence: str) -> None:
    ports = [knock.port for knock in parse_sequence(sequence)]
    assert Wire(door("again", sequence), door("plain", "7,11")).opens(*ports) == ["again"]
    assert Wire(door("again", sequence), door("plain", "7,11")).opens(*ports[:-1]) == []


# Time


def test_the_window_is_total_and_counts_from_the_first_knock() -> None:
    for wait, names in ((4.7, ["ssh"]), (4.9, [])):
        wire = Wire(SSH)
        wire.knock(7)
        wire.now += wait / 2
        wire.knock(3)
        wire.now += wait / 2
        assert wire.opens(9) == names


def test_a_repeated_first_knock_begins_the_window_again() -> None:
    wire = Wire(SSH)
    wire.knock(7)
    wire.now += 4.5
    wire.knock(7)
    wire.now += 4
    assert wire.opens(3, 9) == ["ssh"]


def test_a_timeout_is_told_once_with_the_stage_that_was_reached() -> None:
    wire = Wire(SSH, door("slow", "7,4", seq_timeout=9.0))
    began = wire.now + 0.1
    wire.knock(7)
    told: list[Event] = []
    while (due := wire.tracker.next_deadline()) is not None:
        told += wire.tracker.expire(due)
        assert began + 5 <= due <= began + 9.2
    assert told == [TimedOut(ALICE, SSH, 1), TimedOut(ALICE, wire_door(told, "slow"), 1)]
    assert len(wire.tracker) == 0


def wire_door(events: Iterable[Event], name: str) -> Door:
    return next(event.door for event in events if event.door.name == name)


def test_a_knock_after_the_timeout_tells_it_and_begins_anew() -> None:
    wire = Wire(SSH)
    wire.knock(7, 3)
    wire.now += 6
    assert wire.knock(7) == [TimedOut(ALICE, SSH, 2), Stage(ALICE, SSH, 1)]
    assert wire.opens(3, 9) == ["ssh"]
    assert wire.tracker.expire(wire.now + 9) == []


def test_nothing_is_due_while_nobody_knocks() -> None:
    wire = Wire(SSH)
    assert wire.tracker.next_deadline() is None
    wire.knock(7, 3, 9)
    wire.tracker.expire(wire.now + 6)
    assert wire.tracker.next_deadline() is None
    assert len(wire.tracker) == 0


# New doors


def test_a_reload_loses_no_knock_in_progress() -> None:
    wire = Wire(SSH, door("gone", "7,3,10"))
    wire.knock(7, 3)
    wire.tracker.replace((door("new", "20,21"), SSH))
    assert wire.opens(9) == ["ssh"]
    wire.knock(7)
    wire.now += 6
    wire.tracker.replace((SSH,))
    assert wire.knock(3) == [TimedOut(ALICE, SSH, 1)]


def test_a_reload_ends_attempts_at_doors_that_are_gone_or_changed() -> None:
    wire = Wire(SSH)
    wire.knock(7, 3)
    wire.tracker.replace((door("ssh", "7,3,10"), door("other", "7,3,9")))
    assert wire.opens(10) == []
    assert len(wire.tracker) == 0


def test_a_reload_with_other_flags_or_time_keeps_the_knock() -> None:
    wire = Wire(SSH)
    wire.knock(7, 3)
    changed = door("ssh", "7,3,9", tcpflags=TcpFlags(SYN, SYN), seq_timeout=60.0)
    wire.tracker.replace((changed,))
    assert wire.knock(9) == [Stage(ALICE, changed, 3), Opened(ALICE, changed)]


# Bounds


def test_a_flood_of_first_knocks_is_bounded_and_a_knock_survives_half_of_the_bound() -> None:
    wire = Wire(SSH, bound=1000)
    flood = iter(range(10**6))

    def spoof(count: int) -> None:
        for _ in range(count):
            wire.tracker.observe(wire.now, next(flood).to_bytes(4, "big"), ME, TCP, 7, SYN)
            assert len(wire.tracker) <= 1000

    spoof(3333)
    for _ in range(20):
        wire.knock(7)
        spoof(499)
        wire.knock(3)
        spoof(499)
        assert wire.opens(9) == ["ssh"]
    assert wire.tracker.forgotten > 10_000


def test_what_is_void_is_not_remembered_from_an_older_generation() -> None:
    wire = Wire(SSH, door("web", "11,12"), bound=4)
    for source in (ALICE, BOB, CAROL_6):
        wire.knock(7, source=source)
    wire.knock(3)  # to the young generation
    wire.knock(12)  # void
    assert wire.opens(3, 9) == []


def test_one_source_that_begins_for_ever_takes_no_memory() -> None:
    wire = Wire(SSH, bound=1000)
    for _ in range(2000):
        wire.knock(7, 9)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20_000):
        wire.knock(7, 9)
        wire.now -= 0.19  # as fast as it likes
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(wire.tracker) <= 1
    assert grown < 100_000


def test_a_sweep_over_all_ports_in_order_opens_no_sequence_that_is_not_ascending() -> None:
    wire = Wire(door("one", "3000,1000,2000"), door("two", "3000,2000,1000"), door("three", "2000,1000,3000"))
    assert (
        opened(event for port in range(1, 65536) for event in wire.tracker.observe(1.0, ALICE, ME, TCP, port, SYN))
        == []
    )


# All of it against the rules, written down as simply as can be


class Plain:
    """The rules for each door and source on its own, without regard to speed."""

    def __init__(self, doors: Iterable[Door]) -> None:
        self.doors = tuple(doors)
        self.attempts: dict[tuple[bytes, Door], tuple[int, float]] = {}

    def observe(
        self, now: float, source: bytes, destination: bytes, protocol: int, port: int, flags: int
    ) -> list[Event]:
        knock = Knock(port, "tcp" if protocol == TCP else "udp")
        events: list[Event] = []
        if not any(knock in door.sequence for door in self.doors):
            return events
        for door in self.doors:
            stage, deadline = self.attempts.get((source, door), (0, 0.0))
            if stage and now >= deadline:
                stage = 0
                del self.attempts[source, door]
            if destination != (door.target.packed if door.target else ME):
                continue
            if protocol == TCP and flags & door.tcpflags.mask != door.tcpflags.value:
                continue
            if stage and knock == door.sequence[stage]:
                stage += 1
                events.append(Stage(source, door, stage))
            elif stage and knock == door.sequence[stage - 1]:
                deadline = now + door.seq_timeout if stage == 1 else deadline
            elif knock == door.sequence[0]:
                stage, deadline = 1, now + door.seq_timeout
                events.append(Stage(source, door, 1))
            else:
                stage = 0
            if stage == len(door.sequence):
                events.append(Opened(source, door))
                stage = 0
            if stage:
                self.attempts[source, door] = (stage, deadline)
            else:
                self.attempts.pop((source, door), None)
        return events


SMALL_DOORS = st.lists(
    st.builds(
        lambda sequence, timeout, flags, target: (tuple(sequence), timeout, flags, target),
        st.lists(
            st.builds(Knock, st.integers(1, 4), st.sampled_from(("tcp", "tcp", "tcp", "udp"))), min_size=1, max_size=5
        ),
        st.sampled_from((3.0, 3.0, 5.0)),
        st.sampled_from((TcpFlags(), TcpFlags(), TcpFlags(SYN, SYN), TcpFlags(SYN | ACK, ACK))),
        st.sampled_from((None, None, None, ip_address(OTHER))),
    ),
    min_size=1,
    max_size=6,
).map(lambda found: [Door("d%d" % n, s, seq_timeout=t, tcpflags=f, target=a) for n, (s, t, f, a) in enumerate(found)])


@given(SMALL_DOORS, st.integers(0, 2**32))
def test_what_opens_is_what_the_rules_say(doors: list[Door], seed: int) -> None:
    wire, plain, chance, now = Wire(*doors), Plain(doors), random.Random(seed), 0.0
    for _ in range(250):
        now += chance.choice((0.0, 0.01, 0.1, 0.1, 1.0, 2.0))
        aim = chance.choice(doors)
        knock = chance.choice(aim.sequence)
        if chance.random() < 0.8:  # mostly the right one, so that doors do open
            stage = plain.attempts.get((ALICE, aim), (0, 0.0))[0]
            knock = aim.sequence[stage]
        flags = chance.choice((SYN, SYN, ACK, SYN | ACK))
        packet = (
            chance.choice((ALICE, ALICE, BOB)),
            aim.target.packed if aim.target else chance.choice((ME, ME, ME, OTHER)),
            TCP if knock.protocol == "tcp" else UDP,
            chance.choice((knock.port, knock.port, knock.port, 5)),
            flags if knock.protocol == "tcp" else 0,
        )
        if chance.random() < 0.1:
            wire.tracker.expire(now)
        if chance.random() < 0.02:
            wire.tracker.replace(chance.sample(doors, len(doors)))
        ours = [event for event in wire.tracker.observe(now, *packet) if not isinstance(event, TimedOut)]
        assert sorted(ours, key=repr) == sorted(plain.observe(now, *packet), key=repr)
    wire.tracker.expire(now + 10)
    assert len(wire.tracker) == 0
    assert wire.tracker.next_deadline() is None


@given(SMALL_DOORS, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 70000), st.integers(0, 255)), max_size=60))
def test_any_packets_at_all_are_survived(doors: list[Door], packets: list[tuple[int, int, int]]) -> None:
    tracker = Tracker(doors, bound=4)
    for now, (who, port, flags) in enumerate(packets):
        tracker.observe(float(now), bytes((who,)), ME, flags, port, flags)
        assert len(tracker) <= 4
