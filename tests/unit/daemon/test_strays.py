# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scanners told from knockers: what is counted, for how long, and how little of it is held."""

from __future__ import annotations

import pytest

from knockd.model import Door
from knockd.sequence import parse_sequence
from knockd.strays import BOUND, FLOOD, LONGEST, MEMORY, MOST, SHORTEST, Strays

STRONG = Door("strong", parse_sequence("21001,11003,31002"), seq_timeout=5)
WEAK = Door("weak", parse_sequence("7000,8000,9000"), seq_timeout=10)
ME, OTHER = b"\xc6\x12\0\1", b"\xc6\x12\0\2"


@pytest.fixture
def strays() -> Strays:
    return watching()


def watching(limit: int = 5, exempt: bytes = b"") -> Strays:
    made = Strays(lambda source: source == exempt)
    made.limit = limit
    made.replace([STRONG, WEAK])
    return made


def touch(strays: Strays, now: float, number: int, source: bytes = ME) -> list[int]:
    """What is said of so many different ports."""
    return [strays.stray(now, source, 6, 100 + port) for port in range(number)]


def test_up_to_the_limit_nothing_is_said(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    assert touch(strays, 1, 5) == [0] * 5


def test_one_more_is_a_scan(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    assert touch(strays, 1, 6) == [0] * 5 + [6]


def test_a_port_counts_once(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    assert [strays.stray(now, ME, 6, 80) for now in range(4)] == [0] * 4
    assert touch(strays, 4, 4) == [0] * 4


def test_what_came_before_the_first_knock_does_not_count(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    touch(strays, 1, 5)
    strays.progress(2, ME, STRONG, 1)
    assert strays.stray(3, ME, 6, 9999) == 0


def test_what_came_before_a_later_door_counts_for_the_earlier_one(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    touch(strays, 1, 5)
    strays.progress(2, ME, WEAK, 1)
    assert strays.stray(3, ME, 6, 9999) == 6


def test_nobody_is_counted_without_a_first_knock(strays: Strays) -> None:
    strays.progress(0, OTHER, STRONG, 1)
    assert not any(touch(strays, 1, 100))


def test_an_attempt_whose_window_is_over_counts_no_more(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    assert not any(touch(strays, 5 + LONGEST, 100))


def test_an_opened_door_counts_no_more(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    strays.opened(ME, STRONG)
    assert not any(touch(strays, 1, 100))


def test_a_back_off_lasts_for_one_window_and_nothing_prolongs_it(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    strays.back_off(1, ME)
    assert strays.window == 10
    assert not any(touch(strays, 5, 100))
    assert strays.backs_off(10.9, ME)
    assert not strays.backs_off(11, ME)
    assert not strays.backs_off(5, OTHER)


def test_after_a_back_off_only_very_many_strays_are_a_scan(strays: Strays) -> None:
    strays.back_off(0, ME)
    strays.progress(11, ME, STRONG, 1)
    assert touch(strays, 12, MOST + 1) == [0] * MOST + [MOST + 1]


def test_for_a_weak_door_the_limit_stays(strays: Strays) -> None:
    strays.back_off(0, ME)
    strays.progress(11, ME, WEAK, 1)
    assert touch(strays, 12, 6)[-1] == 6


def test_a_back_off_is_forgotten_in_the_end(strays: Strays) -> None:
    strays.back_off(0, ME)
    assert strays.limit_of(10 + MEMORY - 1, ME) == MOST
    assert strays.limit_of(10 + MEMORY, ME) == 5


def test_who_is_exempt_is_never_watched() -> None:
    strays = watching(exempt=ME)
    strays.progress(0, ME, STRONG, 1)
    assert strays.changes(0) == ([], [])


def test_who_knocks_is_watched_once_a_window(strays: Strays) -> None:
    for now in (0.0, 1.0, 9.9):
        strays.progress(now, ME, STRONG, 1)
    assert strays.changes(0) == ([(ME, 20)], [])
    strays.progress(11, ME, STRONG, 2)
    assert strays.changes(11) == ([(ME, 20)], [])
    assert strays.changes(11) == ([], [])


@pytest.mark.parametrize("late", [20, 20.5, 3600])
def test_nobody_is_watched_for_a_time_that_is_over(strays: Strays, late: float) -> None:
    """As after a turn that has waited for a disk: to the kernel 0 is for ever, and less does not fit into a message."""
    strays.progress(0, ME, STRONG, 1)
    assert strays.changes(late) == ([], [])
    strays.progress(late, ME, STRONG, 1)
    assert strays.changes(late) == ([(ME, 20)], [])


def address(number: int) -> bytes:
    return number.to_bytes(4, "big")


def test_the_oldest_gives_way(strays: Strays) -> None:
    for number in range(BOUND + 1):
        strays.progress(number / FLOOD, address(number), STRONG, 2)
    begin, end = strays.changes(0)
    assert len(begin) == BOUND
    assert end == [address(0)]


def test_in_a_flood_the_second_knock_counts(strays: Strays) -> None:
    for number in range(1000):
        strays.progress(0.5, address(number), STRONG, 1)
    assert len(strays.changes(0.5)[0]) == FLOOD
    strays.progress(0.6, address(999), STRONG, 2)
    assert [source for source, _ in strays.changes(0.6)[0]] == [address(999)]
    strays.progress(1.5, ME, STRONG, 1)  # a second later it is over
    assert [source for source, _ in strays.changes(1.5)[0]] == [ME]


def test_only_weak_doors_settle(strays: Strays) -> None:
    assert strays.settling(0, ME, STRONG) == 0
    strays.progress(0, ME, WEAK, 1)
    assert strays.settling(0.001, ME, WEAK) == SHORTEST
    assert strays.settling(0.1, ME, WEAK) == pytest.approx(1.25 * 6 * 0.05)
    assert strays.settling(5, ME, WEAK) == LONGEST


def test_what_is_held_of_one_source_is_bounded(strays: Strays) -> None:
    strays.progress(0, ME, STRONG, 1)
    doors = [Door("door%d" % number, STRONG.sequence, seq_timeout=5) for number in range(1000)]
    for door in doors:
        strays.progress(0, ME, door, 1)
    touch(strays, 1, 5000)
    watched = strays._watched[ME]
    assert len(watched.attempts) <= 33
    assert len(watched.ports) <= MOST + 1
