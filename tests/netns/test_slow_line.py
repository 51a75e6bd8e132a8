# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logins over a long and bad line: bench/wire.c, which needs no netem. `make bench-client` has more of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.client.measures import log_in_many
from bench.client.place import LoginPlace
from bench.place import Line, Place, compile_tools
from sesame_knock import _knocker as knocker

from .lab import FIREWALL, SERVER, SSH
from .test_client import DROP, SEQUENCE, accepted, listener_of


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tools")
    compile_tools(made)
    return made


def test_the_wire_delays_and_loses_as_asked(tmp_path: Path, tools: Path) -> None:
    with Place(tmp_path, tools, Line(delay=80, loss=20)) as lab:
        begin = time.monotonic()
        answers = sum(lab.is_open() for _try in range(40))  # each waits for half a second: no SYN is sent again
        took = time.monotonic() - begin
        assert 10 <= answers < 40  # 64 % of 40 by the odds
        assert took >= answers * 0.08
        assert lab.wire
        passed, lost = lab.wire.stop()
        assert 0.08 < lost / (passed + lost) < 0.35


def test_no_login_fails_over_a_bad_line(tmp_path: Path, tools: Path) -> None:
    with LoginPlace(tmp_path, tools, Line(delay=150, loss=2)) as place:
        seconds, failures = log_in_many(place, 60, 20)
        assert failures == []
        assert len(seconds) == 60
        assert min(seconds) > 6 * 0.15  # the round trips of a login
        assert place.wire and place.wire.stop()[1] > 0


@pytest.mark.parametrize("firewall", [FIREWALL, DROP])
def test_a_long_way_makes_no_second_connection(tmp_path: Path, tools: Path, firewall: str) -> None:
    with Place(tmp_path, tools, Line(delay=150, loss=0)) as lab:
        lab.nft(firewall)
        lab.daemon(SSH.format(open_timeout=10))
        told: list[knocker.Opened] = []
        with (
            lab.client,
            knocker.connect(knocker.resolve(SERVER), 22, [SEQUENCE], report=told.append),
        ):
            assert accepted(listener_of(lab)) == 1
        assert told == [knocker.Opened(was_open=False, knocks=3)]
