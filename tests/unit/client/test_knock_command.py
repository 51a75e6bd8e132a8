# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`knock` is C knock to those who type it, and keeps a profile's sequence to itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .door import Door

FILES = Path(__file__).parents[3] / "roles" / "knock_client" / "files"
C_KNOCK = shutil.which("knock", path=str(FILES.parents[2] / ".cache" / "c-knockd" / "bin"))
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.skipif(not C_KNOCK, reason="C knock is not unpacked: tools/c-knockd")
@pytest.mark.parametrize(
    "arguments",
    [
        "-v 127.0.0.1 9:tcp 10:udp 11",
        "-v -u 127.0.0.1 9:tcp 10",
        "--verbose --udp --delay 1 127.0.0.1 9 10",
        "127.0.0.1 9 -v -d 1 10",
        "-4 -v localhost 9",
        "-6 -v ::1 9:udp",
        "127.0.0.1 9",
    ],
)
def test_it_speaks_as_c_knock_does(command: Command, arguments: str) -> None:
    theirs = subprocess.run([str(C_KNOCK), *arguments.split()], capture_output=True, text=True, check=False)
    ours = command("knock", *arguments.split())
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "-x 127.0.0.1 9",
        "-d soon 127.0.0.1 9",
        "-p nothing 127.0.0.1 9",
        "--wait=0 127.0.0.1 9",
        "--wait=70000 127.0.0.1 9",
        "--wait=2x 127.0.0.1 9",
        "--list 127.0.0.1",
    ],
)
def test_a_wrong_command_line_is_status_1(command: Command, arguments: str) -> None:
    done = command("knock", *arguments.split())
    assert done.returncode == 1
    assert "usage" in done.stderr


@pytest.mark.parametrize("port", ["0", "70000", "80x", "-5", "22:sctp"])
def test_a_port_that_is_none_is_named_and_nothing_is_sent(command: Command, port: str) -> None:
    done = command("knock", "-v", "--", "127.0.0.1", "9", port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "hitting" not in done.stdout


def test_an_unknown_host_is_status_3(command: Command) -> None:
    done = command("knock", "no-such-host.invalid", "9")
    assert done.returncode == 3
    assert "no-such-host.invalid" in done.stderr


def test_help_and_version_are_status_0(command: Command) -> None:
    assert "usage: knock" in command("knock", "-h").stdout
    assert command("knock", "--version").stdout.startswith("knock ")


def test_a_profile_knocks_and_its_ports_are_not_shown(
    command: Command, door: Door, write_profile: Callable[..., Path]
) -> None:
    done = command("knock", "-v", "--profile", write_profile(sequence=door.sequence), "127.0.0.1", "--wait", door.port)
    assert done.returncode == 0, done.stderr
    assert door.arrived == door.ports
    assert done.stdout.count("hitting udp 127.0.0.1\n") == 3
    assert "port %d of 127.0.0.1 is open after" % door.port in done.stdout
    assert not any(str(port) in done.stdout + done.stderr for port in door.ports)


def test_a_port_that_stays_closed_is_status_5(command: Command, door: Door) -> None:
    done = command("knock", "127.0.0.1", "9:udp", "--wait", door.port, "--timeout", "0.5")
    assert done.returncode == 5
    assert "stays closed" in done.stderr


def test_it_runs_from_anywhere_through_a_link(command: Command, tmp_path: Path) -> None:
    (tmp_path / "knock").symlink_to(FILES / "knock")
    done = subprocess.run(["./knock", "-v", "127.0.0.1", "9"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "hitting tcp 127.0.0.1:9\n"
