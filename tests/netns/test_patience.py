# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A slow machine makes no test fail: how long is waited for a daemon depends on what a start takes just then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Iterator

import pytest

from . import lab as places
from .lab import SSH, Lab

BEGINS_LATE = ("sh", "-c", 'sleep 2; exec "$@"', "sh")


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a quiet machine, two seconds would be too long for a daemon."""
    monkeypatch.setattr(places, "PATIENCE", 0.5)


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each start of a Python takes some time more."""
    slow = tmp_path / "python3"
    slow.write_text('#!/bin/sh\nsleep 0.3\nexec %s "$@"\n' % places.python())
    slow.chmod(0o755)
    monkeypatch.setenv("KNOCKD_PYTHON", str(slow))
    places.python.cache_clear()
    yield
    places.python.cache_clear()


def test_a_slow_daemon_is_awaited_on_a_slow_machine(lab: Lab, no_patience: None, slow_machine: None) -> None:
    assert places.one_start() > 0.3
    lab.daemon(SSH.format(open_timeout=10), through=BEGINS_LATE)


def test_what_never_happens_is_told_on_any_machine(no_patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "STARTS", 3)
    began = time.monotonic()
    with pytest.raises(AssertionError, match="never: it happens"):
        places.eventually(lambda: False, "it happens")
    assert time.monotonic() - began > 0.5


def test_nothing_is_measured_where_nothing_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "one_start", lambda: pytest.fail("it has measured"))
    places.eventually(lambda: True)
