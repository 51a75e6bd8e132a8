# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strangers' packets and people's slips: a short, repeatable run of every case that `make fuzz` runs for long."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import cases

settings.register_profile("sesame fuzz", deadline=None, max_examples=400, derandomize=True, database=None)
repeatable = settings.get_profile("sesame fuzz")

INPUTS = st.one_of(st.binary(max_size=600), st.integers(0, 2**32).map(lambda seed: Random(seed).randbytes(600)))
"""Short ones, which shrink well, and long ones that go deep."""


@given(INPUTS)
@repeatable
def test_no_packets_open_a_door_without_its_knocks_or_keep_a_legitimate_one_shut(data: bytes) -> None:
    cases.Host().packets(data)


def test_what_packets_leave_behind_is_bounded() -> None:
    host, chance = cases.Host(), Random(1)

    def some() -> int:
        return sum(host.packets(chance.randbytes(600)) for _ in range(100))

    some()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    sent = some()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert sent > 3000
    assert grown < 3_000_000


@given(INPUTS)
@repeatable
def test_a_configuration_is_settings_or_one_error_without_a_sequence(data: bytes) -> None:
    cases.configs(data)


@given(INPUTS)
@repeatable
def test_a_guard_file_is_guards_or_one_error_without_a_sequence(data: bytes) -> None:
    cases.guards(data)


@given(INPUTS)
@repeatable
def test_no_one_time_sequence_comes_twice(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    cases.Once(tmp_path_factory.getbasetemp() / "once").files(data)


@given(INPUTS)
@repeatable
def test_no_netlink_message_is_trouble(data: bytes) -> None:
    wire = cases.Wire()
    try:
        wire.netlink(data)
    finally:
        wire.close()


@given(INPUTS)
@repeatable
def test_no_client_of_the_control_socket_keeps_the_next_one_out(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "control"
    desk = cases.Desk(path)
    try:
        desk.messages(data)
    finally:
        desk.close()
