# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The grammar of sequences: what is read, what is refused and how, and what is called weak."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knockd.sequence import (
    GENERATED_PORTS,
    Knock,
    SequenceError,
    format_sequence,
    generate,
    odds,
    parse_sequence,
    scan_odds,
    sweep_hits,
    weaknesses,
)

KNOCKS = st.lists(
    st.builds(Knock, st.integers(1, 65535), st.sampled_from(("tcp", "udp"))), min_size=1, max_size=32
).map(tuple)


@pytest.mark.parametrize(
    "value",
    [
        "20113:tcp,11873:udp,28391:tcp",
        "20113,11873:udp,28391",
        " 20113 : TCP , 11873/UDP,28391:Tcp ",
        ["20113:tcp", "11873/udp", 28391],
        [{"port": 20113}, {"port": "11873", "protocol": "udp"}, Knock(28391, "tcp")],
        ("20113", "11873:udp", "28391"),
    ],
)
def test_every_way_to_write_a_sequence_means_the_same(value: object) -> None:
    assert parse_sequence(value) == (Knock(20113, "tcp"), Knock(11873, "udp"), Knock(28391, "tcp"))


@given(KNOCKS)
def test_what_is_written_is_read_back(knocks: tuple[Knock, ...]) -> None:
    assert parse_sequence(format_sequence(knocks)) == knocks
    assert parse_sequence([str(knock) for knock in knocks]) == knocks


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ([], "empty"),
        ("1,,2", "knock 2 is empty"),
        ("1,2,", "knock 3 is empty"),
        ("0", "'0'"),
        ("70000", "'70000'"),
        ("9" * 5000, "999..."),
        ("20113:tcp,-5", "'-5'"),
        ("80x", "'80x'"),
        ("80:sctp", "'80:sctp'"),
        ("80:tcp:udp", "'80:tcp:udp'"),
        ("\u0661\u0662", "knock 1"),  # digits, but not ours
        (",".join(["1"] * 33), "33 knocks"),
        ([True], "bool"),
        ([80.5], "float"),
        (None, "NoneType"),
        ([{"port": 80, "proto": "tcp"}], "'proto'"),
        ([{"protocol": "tcp"}], "knock 1"),
        ([[80]], "list"),
    ],
)
def test_a_bad_sequence_is_an_error_that_names_the_item(value: object, named: str) -> None:
    with pytest.raises(SequenceError) as error:
        parse_sequence(value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 160


@pytest.mark.parametrize("separator", [" ", ";", ":", "/", "-", ", ,", "|"])
def test_an_error_never_shows_a_sequence_with_wrong_separators(separator: str) -> None:
    with pytest.raises(SequenceError) as error:
        parse_sequence(separator.join(["20113", "11873", "28391"]))
    assert "11873" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("20113", "single knock"),
        ("28391,11873", "only 2 knocks"),
        ("10001,10002,10003", "from low to high"),
        ("20113,22113,28391,31001", "once in 24"),
        ("30003,20002,10001", "from high to low"),
        ("20113:tcp,28391:tcp,11873:udp,12873:udp", "from low to high"),
        ("20113,11873,20113,28391", "repeats"),
        ("9000,7000,8000", "manual"),
        ("10002,10001,10003", "manual"),
    ],
)
def test_a_weak_sequence_is_called_so_with_its_odds_and_without_its_ports(value: str, said: str) -> None:
    found = " ".join(weaknesses(parse_sequence(value)))
    assert said in found
    assert "every time" in found or "once in" in found
    assert not any(str(knock.port) in found for knock in parse_sequence(value))


def test_a_strong_sequence_is_not_called_weak() -> None:
    assert weaknesses(parse_sequence("20113:tcp,11873:udp,28391:tcp,1999:tcp")) == []


def test_the_odds_are_those_of_hitting_the_order_by_chance() -> None:
    assert [scan_odds(parse_sequence(list(range(1, 1 + length)))) for length in (1, 2, 3, 5)] == [1, 2, 6, 120]


def test_with_a_count_of_strays_the_odds_are_those_of_a_simulation() -> None:
    chance = random.Random(1)
    for length, strays, ports in ((2, 0, 6), (2, 3, 12), (3, 0, 5), (3, 2, 8), (3, 5, 12), (4, 4, 7)):
        knocks = parse_sequence(list(range(1, 1 + length)))
        sweep, hits, sweeps = list(range(1, 1 + ports)), 0, 60_000
        for _ in range(sweeps):
            chance.shuffle(sweep)
            places = [sweep.index(knock.port) for knock in knocks]
            hits += places == sorted(places) and places[-1] - places[0] + 1 - length <= strays
        # scan_odds rounds down, and 5 times the standard deviation is what chance may do
        once_in = scan_odds(knocks, strays, ports)
        expected = sweeps / once_in
        assert abs(hits - expected) < 5 * expected**0.5 + sweeps / once_in**2, (length, strays, ports)


def test_with_a_count_of_strays_a_random_sweep_opens_nothing() -> None:
    three, five = parse_sequence([7000, 9000, 8000]), parse_sequence([1, 2, 3, 4, 5])
    # With u strays in all and 5 at most in the 2 gaps of 3 knocks: (1 + 2 + ... + 6) * u of about u^3 / 6 ways.
    assert scan_odds(three, 5) == pytest.approx(6 * 65532**2 / (6 * 21), rel=0.001)
    assert scan_odds(five, 5) > 10**17
    assert scan_odds(three, 65535) == scan_odds(three) == 6
    assert scan_odds(parse_sequence([7]), 5) == 1


def test_with_a_count_of_strays_a_sweep_in_order_opens_only_neighbours() -> None:
    def hits(value: str, strays: int | None) -> bool:
        return sweep_hits(parse_sequence(value), strays)

    assert hits("7000,8000,9000", None)
    assert not hits("7000,8000,9000", 5)
    assert hits("7000,7001,7007", 5)
    assert not hits("7000,7001,7008", 5)
    assert hits("7008,7001", 6)
    assert not hits("7008,7001", 5)
    assert hits("7000:tcp,7000:udp,7001:tcp", 0)
    assert not hits("7000:tcp,7000:udp,7001:tcp,7001:udp,7009:tcp", 5)
    assert not hits("20113,11873,28391", None)
    assert hits("7", 0)


def test_odds_in_words_hold_no_port() -> None:
    said = odds(parse_sequence("21113,11873,28391"), 5) + odds(parse_sequence("21113,23873,28391"), None)
    assert "once in 204," in said
    assert "never" in said
    assert "once in 6," in said
    assert "every time" in said
    assert not any(port in said for port in ("21113", "11873", "28391", "23873"))


@pytest.mark.parametrize("length", [3, 5, 32])
def test_a_generated_sequence_is_strong_and_touches_no_port_to_avoid(length: int) -> None:
    avoid = range(GENERATED_PORTS.start, GENERATED_PORTS.stop - 200)
    for _ in range(20):
        knocks = generate(length, avoid=[*avoid, Knock(32767, "tcp")])
        assert len(knocks) == length
        assert weaknesses(knocks) == []
        assert all(knock.port in GENERATED_PORTS and knock.port not in avoid and knock.port < 32767 for knock in knocks)


def test_generated_sequences_differ() -> None:
    assert len({generate() for _ in range(50)}) == 50


@pytest.mark.parametrize("length", [0, 2, 33])
def test_a_sequence_that_cannot_be_strong_is_not_generated(length: int) -> None:
    with pytest.raises(SequenceError):
        generate(length)
