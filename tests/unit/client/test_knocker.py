# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The knocker: one address, in order, as soon as the port is open, and nobody is accepted but the winner."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from sesame_knock import _knocker as knocker
from sesame_knock._sequence import parse_sequence

from .door import Door

on_linux = pytest.mark.skipif(not knocker.LOOKS_ARE_FREE, reason="a look is a whole connection here")


def test_all_knocks_and_the_connect_go_to_one_address(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def answer(name: bytes, *_more: object) -> list[object]:
        """Another address each time, as a name with several gives them in turn."""
        names.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.%d" % len(names), 0))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    target = knocker.resolve("door.example.org")
    with knocker.connect(target, door.port, [parse_sequence(door.sequence)]) as connection:
        assert connection.getpeername() == ("127.0.0.1", door.port)
    assert door.arrived == door.ports
    assert names == [b"door.example.org"]


def test_the_family_can_be_chosen() -> None:
    assert knocker.resolve("localhost", "ipv4").address == "127.0.0.1"
    assert knocker.resolve("::1", "ipv6").family == socket.AF_INET6


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "ipv6"), ("::1", "ipv4")])
def test_a_host_without_an_address_of_the_family_is_not_resolved(host: str, family: str) -> None:
    with pytest.raises(knocker.NotResolved, match=host):
        knocker.resolve(host, family)


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 300])
def test_a_name_that_is_none_is_not_resolved(name: str) -> None:
    with pytest.raises(knocker.NotResolved, match=name):
        knocker.resolve(name)


def test_knocks_leave_from_the_address_that_was_asked_for(door: Door) -> None:
    door.open()
    with knocker.connect(knocker.resolve("127.0.0.1", source="127.0.0.9"), door.port, [()]) as connection:
        assert connection.getsockname()[0] == "127.0.0.9"


def test_knocks_arrive_in_order(door: Door) -> None:
    knocker.connect(knocker.resolve("127.0.0.1"), door.port, [parse_sequence(door.sequence)]).close()
    assert door.arrived == door.ports


def test_a_port_that_opens_late_is_reached_without_another_knock(make_door: Callable[..., Door]) -> None:
    door = make_door(opens_after=0.15)
    knocker.connect(knocker.resolve("127.0.0.1"), door.port, [parse_sequence(door.sequence)]).close()
    assert door.arrived == door.ports


def test_a_knock_that_was_lost_is_repeated(make_door: Callable[..., Door]) -> None:
    door = make_door(deaf_rounds=1)
    knocker.connect(knocker.resolve("127.0.0.1"), door.port, [parse_sequence(door.sequence)]).close()
    assert door.arrived == door.ports * 2


def times_of_knocks(door: Door, delay: float = knocker.DELAY) -> list[float]:
    """When they left: when they come depends on what else the machine does."""
    times: list[float] = []
    sequences = [parse_sequence(door.sequence)]
    target = knocker.resolve("127.0.0.1")
    knocker.wait_open(target, door.port, sequences, delay, tell=lambda _knock: times.append(time.monotonic()))
    return times


def test_each_repetition_is_slower(make_door: Callable[..., Door]) -> None:
    times = times_of_knocks(make_door(deaf_rounds=2), delay=0.01)
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert all(gap >= 0.01 for gap in gaps[0:2])
    assert all(gap >= 0.04 for gap in gaps[3:5])
    assert all(gap >= 0.16 for gap in gaps[6:8])


def test_clients_that_fail_together_knock_at_different_times_then(
    make_door: Callable[..., Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knocker.os, "urandom", lambda size: b"\xff" * size)
    times = times_of_knocks(make_door(deaf_rounds=1))
    assert times[3] - times[2] >= 1.49 * knocker._WINDOWS[0]


def test_the_previous_sequence_opens_as_well(door: Door) -> None:
    sequences = [parse_sequence("1:udp,2:udp"), parse_sequence(door.sequence)]
    knocker.connect(knocker.resolve("127.0.0.1"), door.port, sequences).close()
    assert door.arrived == door.ports


def test_the_connection_is_like_any_other(door: Door) -> None:
    with knocker.connect(knocker.resolve("127.0.0.1"), door.port, [parse_sequence(door.sequence)]) as connection:
        assert connection.recv(100).startswith(b"SSH-2.0-")
        assert connection.getblocking()
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)


@on_linux
def test_the_server_accepts_one_connection_only(make_door: Callable[..., Door]) -> None:
    door = make_door(opens_after=0.2)
    with knocker.connect(knocker.resolve("127.0.0.1"), door.port, [parse_sequence(door.sequence)]):
        assert door.settle() == 1


@on_linux
def test_looking_costs_the_server_no_connection(door: Door) -> None:
    door.open()
    target = knocker.resolve("127.0.0.1")
    assert all(knocker.is_open(target, door.port) for _look in range(20))
    knocker.wait_open(target, door.port, [parse_sequence(door.sequence)])
    assert door.settle() == 0


@on_linux
@pytest.mark.parametrize("delay", [knocker.DELAY, 0.3])  # after 200 ms a look would be accepted
def test_that_a_port_was_open_without_the_knock_is_told(door: Door, delay: float) -> None:
    told: list[knocker.Opened] = []
    target, sequences = knocker.resolve("127.0.0.1"), [parse_sequence(door.sequence)]
    assert knocker.wait_open(target, door.port, sequences, delay) == knocker.Opened(was_open=False, knocks=3)
    assert knocker.wait_open(target, door.port, sequences, delay) == knocker.Opened(was_open=True, knocks=3)
    assert door.arrived == door.ports * 2
    assert door.settle() == 0
    with knocker.connect(target, door.port, sequences, delay, report=told.append) as connection:
        assert connection.recv(100).startswith(b"SSH-2.0-")
    assert told == [knocker.Opened(was_open=True, knocks=3)]
    assert door.settle() == 1


def test_who_has_a_connection_waits_for_nothing(door: Door) -> None:
    door.open()
    begin = time.monotonic()
    knocker.connect(knocker.resolve("127.0.0.1"), door.port, [parse_sequence(door.sequence)], delay=5).close()
    assert time.monotonic() - begin < 5
    assert door.settle() == 1
    assert sorted(door.arrived) == sorted(door.ports)


def test_a_knock_at_an_open_port_is_no_connection_either(door: Door) -> None:
    door.open()
    knocker.knock(knocker.resolve("127.0.0.1"), parse_sequence("%d:tcp" % door.port))
    assert door.settle() == 0 or not knocker.LOOKS_ARE_FREE


def test_a_closed_port_is_told_without_the_sequence(make_door: Callable[..., Door]) -> None:
    door = make_door(deaf_rounds=1000)
    with pytest.raises(knocker.StillClosed) as failure:
        knocker.wait_open(knocker.resolve("127.0.0.1"), door.port, [parse_sequence(door.sequence)], timeout=1.0)
    message = str(failure.value)
    assert str(door.port) in message
    assert "sequence" in message
    assert "clock" in message
    assert "NAT" in message
    assert not any(str(port) in message for port in door.ports)


def test_the_deadline_ends_it(make_door: Callable[..., Door]) -> None:
    door = make_door(deaf_rounds=1000)
    begin = time.monotonic()
    with pytest.raises(knocker.StillClosed):
        knocker.wait_open(knocker.resolve("127.0.0.1"), door.port, [parse_sequence(door.sequence)], timeout=0.3)
    assert 0.3 <= time.monotonic() - begin < 5


def test_waiting_for_closing_sees_it(door: Door) -> None:
    door.open()
    threading.Timer(0.5, door.close).start()
    begin = time.monotonic()
    knocker.wait_closed(knocker.resolve("127.0.0.1"), door.port, timeout=30)
    assert time.monotonic() - begin >= 0.5


def test_a_port_that_stays_open_is_told(door: Door) -> None:
    door.open()
    with pytest.raises(knocker.StillOpen, match="still open"):
        knocker.wait_closed(knocker.resolve("127.0.0.1"), door.port, timeout=0.6)


def test_no_descriptor_is_left(make_door: Callable[..., Door]) -> None:
    door = make_door(opens_after=0.1)
    before = len(os.listdir("/dev/fd"))
    target = knocker.resolve("127.0.0.1")
    knocker.wait_open(target, door.port, [parse_sequence(door.sequence)])
    knocker.is_open(target, door.port)
    assert len(os.listdir("/dev/fd")) == before
