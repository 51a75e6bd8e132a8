# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`knock web1`: a profile by its name, told to people and to programs, without its ports."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sesame_knock import knock
from sesame_knock._sequence import SequenceError

from .door import Door

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Write = Callable[..., Path]
KEYS = ["host", "address", "family", "port", "knocks", "attempts", "elapsed_ms", "state"]


def named(door: Door, **values: Any) -> dict[str, Any]:
    return {"sequence": door.sequence, "host": "127.0.0.1", "port": door.port, **values}


def hides(door: Door, done: subprocess.CompletedProcess[str]) -> bool:
    return not any(str(port) in done.stdout + done.stderr for port in door.ports)


def ordered(*arguments: str) -> knock.Order:
    order = knock.Order()
    assert knock.parse(arguments, order)
    return order


def test_a_name_is_a_host_a_port_and_a_sequence(command: Command, door: Door, name_profile: Write) -> None:
    name_profile("web1", **named(door))
    done = command("knock", "--wait", "web1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert door.arrived == door.ports


def test_without_wait_a_name_prints_what_c_knock_prints(command: Command, door: Door, name_profile: Write) -> None:
    name_profile("web1", **named(door))
    assert command("knock", "-v", "web1").stdout == "hitting udp 127.0.0.1\n" * 3


def test_profiles_are_below_home_where_no_xdg_folder_is(command: Command, door: Door, name_profile: Write) -> None:
    path = name_profile("web1", **named(door))
    home = path.parents[2] / "home"
    (home / ".config").mkdir(parents=True)
    path.parent.rename(home / ".config" / "sesame-knock")
    (home / "relative" / "sesame-knock").mkdir(parents=True)
    for elsewhere in ("", str(path.parents[1]), "relative"):
        done = command("knock", "web1", env={"HOME": str(home), "XDG_CONFIG_HOME": elsewhere}, cwd=home)
        assert done.returncode == 0, done.stderr


def test_a_file_may_name_the_host_too(command: Command, door: Door, write_profile: Write) -> None:
    assert command("knock", "-w", "-p", write_profile(**named(door))).returncode == 0
    assert door.arrived == door.ports
    done = command("knock", "-p", write_profile(sequence=door.sequence))
    assert done.returncode == 1
    assert "names no host" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "port"),
    [
        ("web1", 0),
        ("--wait web1", 2299),
        ("-w web1", 2299),
        ("web1 --wait", 2299),
        ("web1 -w", 2299),
        ("-vjw web1", 2299),
        ("--check web1", 2299),
        ("--wait 24 web1", 24),
        ("--wait=24 web1", 24),
        ("--wai 24 web1", 24),
        ("-w 24 web1", 24),
        ("-w24 web1", 24),
        ("-vw 24 web1", 24),
        ("web1 -cw 24", 24),
        ("--check --wait=24 web1", 24),
        ("--wait 127.0.0.1 9", 22),
        ("127.0.0.1 9 --wait 24", 24),
        ("--wait -- 127.0.0.1 24", 22),
        ("--wait old", 22),
    ],
)
def test_the_port_of_wait_is_what_is_typed_or_the_profiles_or_22(
    name_profile: Write, arguments: str, port: int
) -> None:
    name_profile("web1", sequence="9", host="127.0.0.1", port=2299)
    name_profile("old", sequence="9", host="127.0.0.1")
    order = ordered(*arguments.split())
    assert (order.port, order.host) == (port, "127.0.0.1")


def test_after_two_dashes_nothing_is_an_option() -> None:
    with pytest.raises(SequenceError, match="'-w'"):
        ordered("127.0.0.1", "--", "-w")


@pytest.mark.parametrize("name", ["web9", "../web9", "./web1", ".web1", "127.0.0.1", "web1.json", ""])
def test_what_is_no_name_reads_nothing_and_shows_the_names(command: Command, name_profile: Write, name: str) -> None:
    for there in ("web1", "web2", ".web1", "../web9"):
        name_profile(there, sequence="4242:udp", host="127.0.0.1")
    done = command("knock", "-v", name)
    assert done.returncode == 1
    assert "no profile has the name %s: there are web1, web2 in " % name in done.stderr
    assert "hitting" not in done.stdout


def test_of_many_names_some_are_shown(command: Command, name_profile: Write) -> None:
    for number in range(30):
        name_profile("web%02d" % number, sequence="9")
    assert "web19 and 10 more in" in command("knock", "web").stderr


def test_where_no_profile_is_that_is_said(command: Command, tmp_path: Path) -> None:
    done = command("knock", "web1", env={"HOME": str(tmp_path)})
    assert "there is none in %s/.config/sesame-knock" % tmp_path in done.stderr


def test_names_and_hosts_are_listed(command: Command, name_profile: Write) -> None:
    name_profile("web1", sequence="4242:udp", host="web1.example.org", port=2299)
    name_profile("fd00::1", sequence="4242:udp")
    name_profile("two words", sequence="4242:udp")
    name_profile("es\x1bcape", sequence="4242:udp")
    name_profile("web1", sequence="4242:udp", host="web1.example.org", port=2299).with_name("notes").touch()
    done = command("knock", "--list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "fd00::1\t\nweb1\tweb1.example.org\n", "")
    assert json.loads(command("knock", "-lj").stdout) == {
        "profiles": [
            {"name": "fd00::1", "host": None, "port": None},
            {"name": "web1", "host": "web1.example.org", "port": 2299},
        ]
    }


def test_a_profile_that_cannot_be_used_is_listed_and_told(command: Command, name_profile: Write) -> None:
    name_profile("web1", sequence="4242:udp", host="web1.example.org").chmod(0o644)
    name_profile("web2", sequence="4242:udp", host="web2.example.org")
    done = command("knock", "-l")
    assert (done.returncode, done.stdout) == (1, "web1\t\nweb2\tweb2.example.org\n")
    assert "chmod 600" in done.stderr
    assert "4242" not in done.stderr


def test_json_says_how_it_went(command: Command, door: Door, name_profile: Write) -> None:
    name_profile("web1", **named(door))
    done = command("knock", "--json", "--wait", "web1")
    said = json.loads(done.stdout)
    assert list(said) == KEYS
    assert said.pop("elapsed_ms") >= 4  # three knocks, 2 ms apart
    assert said == {
        "host": "127.0.0.1",
        "address": "127.0.0.1",
        "family": "ipv4",
        "port": door.port,
        "knocks": 3,
        "attempts": 1,
        "state": "opened",
    }
    assert hides(door, done)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_without_wait_says_what_was_sent(command: Command) -> None:
    done = command("knock", "-j", "-6", "::1", "9:udp", "10:udp")
    said = json.loads(done.stdout)
    assert (said["family"], said["port"], said["knocks"], said["state"]) == ("ipv6", None, 2, "sent")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("--json", 1, "name of a profile"),
        ("-j -x 127.0.0.1 9", 1, "-x"),
        ("--json 127.0.0.1 70000", 1, "70000"),
        ("web9 --json", 1, "there is none"),
        ("-j no-such-host.invalid 9", 3, "no-such-host.invalid"),
        ("-j 255.255.255.255 9", 4, "no route"),
        ("-jt 0.1 -w 1 127.0.0.1 9", 5, "stays closed"),
    ],
)
def test_errors_are_json_with_the_same_status(
    command: Command, name_profile: Write, arguments: str, status: int, words: str
) -> None:
    done = command("knock", *arguments.split())
    said = json.loads(done.stdout)
    assert list(said) == ["error", "status"]
    assert words in said["error"]
    assert said["status"] == done.returncode == status
    assert done.stderr == ""
    plain = re.sub(r"(-)j(?=[xtw])|-j |--json", r"\1", arguments)
    assert command("knock", *plain.split()).returncode == status


def test_the_account_tells_each_step_and_its_time(
    command: Command, make_door: Callable[..., Door], name_profile: Write
) -> None:
    door = make_door(deaf_rounds=1)
    name_profile("web1", **named(door, host="localhost", family="ipv4"))
    done = command("knock", "-v", "-w", "web1")
    lines = [re.fullmatch(r" *(\d+\.\d) ms  (.*)", line) for line in done.stdout.splitlines()]
    assert [line[2] for line in lines if line] == [
        "localhost is 127.0.0.1, IPv4",
        "attempt 1",
        *["hitting udp 127.0.0.1"] * 3,
        "attempt 2",
        *["hitting udp 127.0.0.1"] * 3,
        "port %d was closed before the knock" % door.port,
        "port %d of localhost (127.0.0.1) is open after 2 attempts, 6 knocks" % door.port,
    ]
    times = [float(line[1]) for line in lines if line]
    assert times == sorted(times)
    assert times[6] - times[2] > 400  # the first attempt had its time
    assert hides(door, done)


def test_the_account_shows_ports_that_were_typed_and_json_gets_it_on_stderr(command: Command, door: Door) -> None:
    knocks = ["%d:udp" % port for port in door.ports]
    done = command("knock", "-v", "-j", "-w", door.port, "127.0.0.1", *knocks)
    assert json.loads(done.stdout)["state"] == "opened"
    assert re.findall(r"hitting udp 127.0.0.1:(\d+)\n", done.stderr) == [str(port) for port in door.ports]
    assert "127.0.0.1 is an address, IPv4" in done.stderr


def test_the_account_names_the_previous_sequence(command: Command, door: Door, name_profile: Write) -> None:
    name_profile("web1", **named(door, sequence="9:udp", previous=door.sequence))
    done = command("knock", "-v", "-w", "web1")
    assert "attempt 2, with the previous sequence\n" in done.stdout
    assert "2 attempts, 4 knocks" in done.stdout


@pytest.mark.parametrize(("options", "status"), [("--check", 7), ("-v --wait", 0), ("--json --wait", 0), ("-cj", 7)])
def test_a_port_that_was_open_before_is_told_and_costs_no_connection(
    command: Command, door: Door, name_profile: Write, options: str, status: int
) -> None:
    name_profile("web1", **named(door))
    door.open()
    done = command("knock", *options.split(), "web1")
    assert done.returncode == status
    assert "warning: port %d of 127.0.0.1 was open before the knock" % door.port in done.stderr
    if "j" in options:
        assert json.loads(done.stdout)["state"] == "was open"
    assert door.arrived == door.ports
    assert door.settle() == 0


def test_check_of_a_port_that_the_knock_opens_is_status_0(command: Command, door: Door, name_profile: Write) -> None:
    name_profile("web1", **named(door))
    done = command("knock", "--check", "web1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert door.settle() == 0


def test_check_of_a_port_that_stays_closed_is_status_5(command: Command, door: Door) -> None:
    assert command("knock", "-c", "-w", door.port, "-t", "0.3", "127.0.0.1", "9:udp").returncode == 5
