# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: the classic line with fields beside it, and no way to smuggle in a field."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knockd import log
from knockd.log import MESSAGE_IDS, Log


def read(data: bytes) -> dict[str, str]:
    """The fields of an entry, read as systemd documents its native protocol."""
    fields = {}
    while data:
        name, separator, rest = data.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            data = rest
        else:
            (length,) = struct.unpack_from("<Q", rest)
            key, value = name, rest[8 : 8 + length]
            assert rest[8 + length : 9 + length] == b"\n"
            data = rest[9 + length :]
        assert separator and key.decode() not in fields
        fields[key.decode()] = value.decode()
    return fields


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(tmp_path / "journal"))
        service.settimeout(5)
        monkeypatch.setattr(log, "JOURNAL", str(tmp_path / "journal"))
        monkeypatch.setattr(log, "SYSLOG", str(tmp_path / "syslog"))
        yield service


def test_a_door_is_logged_with_its_fields(journal: socket.socket) -> None:
    made = Log()
    made.open(None, use_syslog=True)
    made.door("open", "198.18.0.1", "ssh", "OPEN SESAME")
    assert read(journal.recv(65536)) == {
        "MESSAGE": "198.18.0.1: ssh: OPEN SESAME",
        "MESSAGE_ID": MESSAGE_IDS["open"],
        "PRIORITY": "5",
        "SYSLOG_FACILITY": "1",
        "SYSLOG_IDENTIFIER": "knockd",
        "KNOCKD_EVENT": "open",
        "KNOCKD_ADDRESS": "198.18.0.1",
        "KNOCKD_DOOR": "ssh",
    }


def test_a_line_about_nothing_in_particular_has_no_fields_of_ours(journal: socket.socket) -> None:
    made = Log()
    made.open(None, use_syslog=True)
    made.say("eth0: not there yet")
    fields = read(journal.recv(65536))
    assert fields["MESSAGE"] == "eth0: not there yet"
    assert not [name for name in fields if name.startswith(("KNOCKD_", "MESSAGE_ID"))]


@given(text=st.text(), door=st.text(min_size=1))
def test_no_value_can_become_a_field_of_its_own(text: str, door: str) -> None:
    about = log._About("error", "198.18.0.1", door)
    fields = read(log.entry(text, about))
    assert len(fields) == 8
    assert fields["MESSAGE"] == text.encode(errors="replace").decode()
    assert fields["KNOCKD_DOOR"] == door.encode(errors="replace").decode()


def test_without_a_journal_syslog_gets_the_classic_line(tmp_path: Path, journal: socket.socket) -> None:
    journal.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "syslog"))
        syslog.settimeout(5)
        made = Log()
        made.open(None, use_syslog=True)
        made.door("open", "198.18.0.1", "ssh", "OPEN SESAME")
        assert syslog.recv(65536) == b"<13>knockd: 198.18.0.1: ssh: OPEN SESAME"


def test_a_restarted_journal_gets_the_next_line(tmp_path: Path, journal: socket.socket) -> None:
    made = Log()
    made.open(None, use_syslog=True)
    made.say("one")
    journal.close()
    os.unlink(tmp_path / "journal")
    made.say("lost")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(tmp_path / "journal"))
        again.settimeout(5)
        made.say("two")
        assert read(again.recv(65536))["MESSAGE"] == "two"


def test_a_journal_that_reads_nothing_delays_nothing(journal: socket.socket) -> None:
    """As while it is stopped, or its disk hangs: a door must not wait for its line."""
    made = Log()
    made.open(None, use_syslog=True)
    lines = 3 * int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for number in range(lines):  # a socket that waits would never come back from this
        made.say(str(number))
    journal.setblocking(False)
    read_late = 0
    with contextlib.suppress(BlockingIOError):
        while journal.recv(65536):
            read_late += 1
    assert 0 < read_late < lines
    made.say("one more")
    assert read(journal.recv(65536))["MESSAGE"] == "one more"


def test_output_that_is_the_journal_is_not_written_twice(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    output = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", "%d:%d" % (output.st_dev, output.st_ino))
    made = Log(foreground=True)
    made.open(None, use_syslog=False)
    made.say("shutting down", "stop")
    assert read(journal.recv(65536))["KNOCKD_EVENT"] == "stop"
    assert capfd.readouterr().out == ""


def test_any_other_output_gets_the_classic_line_and_the_journal_nothing(
    journal: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    made = Log(foreground=True)
    made.open(None, use_syslog=False)
    made.door("stage", "198.18.0.1", "ssh", "Stage 1")
    assert capfd.readouterr().out == "198.18.0.1: ssh: Stage 1\n"
    journal.setblocking(False)
    with pytest.raises(BlockingIOError):
        journal.recv(65536)
