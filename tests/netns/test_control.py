# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""knockctl against a real daemon: what it shows, who it lets in and out, and who may ask."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..ipv4 import summed
from .lab import CLIENT, CLIENT6, KNOCKS, PACKAGE, SERVER, SERVER6, SSH, STRANGER, SYN, Lab, eventually, python

LONG = SSH.format(open_timeout=600)
WEB = "[web]\nsequence = 21007:tcp,11005:tcp,31006:tcp\ntcpflags = syn\nopen_ports = 80/tcp,8000-8010/tcp\n"
JOB = "[job]\nsequence = 21009,11007,31008\nstart_command = true\ncmd_timeout = 600\nstop_command = true\n"


@pytest.fixture
def place() -> Iterator[str]:
    """A directory like the one that systemd makes: its group may enter."""
    made = tempfile.mkdtemp(prefix="knockd-run-")
    os.chmod(made, 0o750)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def path(place: str) -> str:
    return place + "/control"


def run(path: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, python(), "-m", "knockd.knockctl", "--socket", path, *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def knockctl(path: str, *arguments: str) -> str:
    done = run(path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def status(path: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(knockctl(path, "status", "--json"))
    return shown


# What it shows.


def test_status_shows_doors_who_is_in_and_counters(walled: Lab, place: str, path: str) -> None:
    walled.daemon(LONG + WEB + JOB, RUNTIME_DIRECTORY=place)
    assert "nobody is in" in knockctl(path)
    walled.knock(*KNOCKS)
    walled.opens()
    walled.knock("21009", "11007", "31008")
    walled.knock("21001", source=STRANGER)
    eventually(lambda: status(path)["knockers"] == 1)
    eventually(lambda: status(path)["commands"])
    text = knockctl(path)
    lines = [line.split() for line in text.splitlines()]
    assert ["ssh", "native", "22/tcp", "10", "min"] in lines
    assert ["web", "native", "80/tcp,", "8000-8010/tcp", "10", "s"] in lines
    assert ["job", "command", "-", "10", "min"] in lines
    assert [CLIENT, "ssh", "22/tcp"] in [line[:3] for line in lines]
    assert [CLIENT, "job", "-"] in [line[:3] for line in lines]
    assert "listens on eth0 (%s, %s" % (SERVER, SERVER6) in text
    shown = status(path)
    assert shown["counters"] == {
        "knocks": 7,
        "opened": 2,
        "refused": 0,
        "timed_out": 0,
        "forgotten": 0,
        "dropped_packets": 0,
    }
    (entry,) = shown["admitted"]
    assert 0 < entry.pop("seconds") <= 600
    assert entry == {"address": CLIENT, "door": "ssh", "ports": ["22/tcp"]}


def test_no_port_of_a_sequence_is_shown(walled: Lab, place: str, path: str) -> None:
    walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    walled.knock("21001")
    eventually(lambda: status(path)["knockers"])
    shown = knockctl(path) + knockctl(path, "status", "--json")
    assert not [port for port in KNOCKS if port in shown]


def test_watch_shows_what_happens_as_it_happens(walled: Lab, place: str, path: str) -> None:
    daemon = walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    seen = walled.directory / "seen"
    command = [python(), "-m", "knockd.knockctl", "-s", path, "watch"]
    with open(seen, "wb") as output:
        watcher = subprocess.Popen(
            command,
            env={"PYTHONPATH": str(PACKAGE)},
            stdout=output,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.default_int_handler
            ),  # a job in the background has none
        )
    try:

        def begins() -> bool:  # it has no way to say that it watches: it does when it shows something
            walled.knock("21001", "31002", source=STRANGER)
            return "%s: ssh: Stage 1\n" % STRANGER in seen.read_text()

        eventually(begins)
        walled.knock(*KNOCKS)
        eventually(lambda: "%s: ssh: OPEN SESAME\n" % CLIENT in seen.read_text())
        knockctl(path, "close", CLIENT)
        eventually(lambda: "%s: ssh: closed by knockctl\n" % CLIENT in seen.read_text())
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(15) == 0
    finally:
        watcher.kill()
    walled.knock(*KNOCKS)
    eventually(lambda: daemon.log.count("OPEN SESAME") == 2)


# Letting in and out.


def test_open_lets_somebody_in_without_a_knock_and_close_ends_it(walled: Lab, place: str, path: str) -> None:
    daemon = walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    said = knockctl(path, "open", CLIENT, "for", "20m")
    assert said == "%s is let in for 20 min: ssh, 22/tcp\n" % CLIENT
    assert walled.is_open()
    assert not walled.is_open(source=STRANGER)
    assert "%s: ssh: opened by knockctl" % CLIENT in daemon.log
    assert "is no longer let in" in knockctl(path, "close", CLIENT)
    assert not walled.is_open()
    assert "%s: ssh: closed by knockctl" % CLIENT in daemon.log
    again = run(path, "close", CLIENT)
    assert (again.returncode, again.stderr) == (1, "knockctl: nobody is let in from %s\n" % CLIENT)


def test_open_ends_when_its_time_is_over(walled: Lab, place: str, path: str) -> None:
    walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    knockctl(path, "open", CLIENT6, "for", "1s")
    walled.closes(SERVER6)
    eventually(lambda: not status(path)["admitted"])


def test_open_takes_a_mapped_address_for_what_it_is(walled: Lab, place: str, path: str) -> None:
    walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    knockctl(path, "open", "::ffff:" + CLIENT)
    assert walled.is_open()


def test_close_ends_what_a_knock_has_opened(walled: Lab, place: str, path: str) -> None:
    walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    walled.knock(*KNOCKS)
    walled.opens()
    knockctl(path, "close", CLIENT)
    assert not walled.is_open()


def test_open_wants_to_know_which_of_several_doors(walled: Lab, place: str, path: str) -> None:
    walled.daemon(LONG + WEB, RUNTIME_DIRECTORY=place)
    vague = run(path, "open", CLIENT)
    assert vague.returncode == 1 and "ssh, web" in vague.stderr
    knockctl(path, "open", CLIENT, "ssh")
    assert walled.is_open()
    unknown = run(path, "open", CLIENT, "job")
    assert unknown.returncode == 1 and "ssh, web" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("open", "nobody"), 1, "'nobody' is no address"),
        (("open", CLIENT, "for", "soon"), 2, "'soon' is no time"),
        (("open", CLIENT, "for", "0s"), 2, "'0s' is no time"),
        (("open", CLIENT, "for", "400d"), 1, "no number of seconds"),
        (("open", CLIENT, "ssh", "10m"), 2, "open ADDRESS [DOOR] [for 10m]"),
    ],
)
def test_a_mistake_is_one_clear_error(
    walled: Lab, place: str, path: str, arguments: tuple[str, ...], code: int, error: str
) -> None:
    walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    done = run(path, *arguments)
    assert done.returncode == code and error in done.stderr and "Traceback" not in done.stderr


def test_open_says_that_a_command_door_is_not_for_it(walled: Lab, place: str, path: str) -> None:
    walled.daemon(JOB, RUNTIME_DIRECTORY=place)
    done = run(path, "open", CLIENT)
    assert done.returncode == 1 and "no native door" in done.stderr


# Who may ask, and where.


def test_the_socket_is_roots_and_its_groups(walled: Lab, place: str, path: str) -> None:
    walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    refused = run(path, before=nobody)
    assert refused.returncode == 1 and "use sudo" in refused.stderr
    # With the modes out of the way the kernel's word on the peer still counts.
    os.chmod(place, 0o755)
    os.chmod(path, 0o666)
    refused = run(path, before=nobody)
    assert refused.returncode == 1 and "only root and the group" in refused.stderr
    for member in (("--regid=0", "--clear-groups"), ("--regid=65534", "--groups=7,0")):
        assert run(path, before=("setpriv", "--reuid=65534", *member)).returncode == 0


CONTROL_GROUP, OWN_GROUP = "47011", "47012"
"""Numbers do: no name has to exist."""


def test_the_socket_and_what_the_daemon_reads_may_belong_to_two_groups(walled: Lab, place: str, path: str) -> None:
    """As the unit has it: whoever may ask reads no sequence, and whoever reads may not ask."""
    shutil.chown(place, group=int(CONTROL_GROUP))
    daemon = walled.daemon(
        LONG,
        RUNTIME_DIRECTORY=place,
        through=("setpriv", "--regid=" + CONTROL_GROUP, "--groups=" + OWN_GROUP),
    )
    shutil.chown(daemon.config, group=int(OWN_GROUP))
    os.chmod(daemon.config, 0o640)
    daemon.reload()
    assert "keeping" not in daemon.log
    status_of_it = os.stat(path)
    assert (status_of_it.st_gid, stat.S_IMODE(status_of_it.st_mode)) == (int(CONTROL_GROUP), 0o660)

    def member(group: str) -> tuple[str, ...]:
        return ("setpriv", "--reuid=65534", "--regid=65534", "--groups=" + group)

    assert run(path, before=member(CONTROL_GROUP)).returncode == 0
    assert subprocess.run([*member(CONTROL_GROUP), "cat", daemon.config], capture_output=True).returncode
    assert run(path, before=member(OWN_GROUP)).returncode == 1
    os.chmod(place, 0o755)
    os.chmod(path, 0o666)
    assert "only root and the group" in run(path, before=member(OWN_GROUP)).stderr


def test_no_watcher_sees_a_sequence_or_a_command_whatever_the_daemon_logs(walled: Lab, place: str, path: str) -> None:
    (walled.directory / "once").write_text(" 10031,10033,70000\n 10021,10023,10022\n")
    secret = "echo 13579 24680 >> DIR/done"
    config = LONG + "[job]\none_time_sequences = DIR/once\nstart_command = %s\nstop_command = %s\n" % (secret, secret)
    daemon = walled.daemon(config, "-D", RUNTIME_DIRECTORY=place)
    with socket.socket(socket.AF_UNIX) as watcher:
        watcher.settimeout(1)
        watcher.connect(path)
        watcher.sendall(b'{"command":"watch"}\n')
        seen = watcher.recv(65536)
        walled.knock(*KNOCKS)
        walled.knock("10021", "10023", "10022")
        daemon.await_log("running command: echo 13579", "ssh: OPEN SESAME", "packet: ")
        daemon.reload(config.replace("[ssh]", "[ssh]\nsequence = 21001:tcp,11003:tcp,31002:tcp,70000"))
        with contextlib.suppress(TimeoutError):
            while more := watcher.recv(65536):
                seen += more
    shown = seen.decode() + knockctl(path) + knockctl(path, "--json")
    assert "ssh: OPEN SESAME" in shown and "job: running command" in shown
    assert not re.findall(r"\b(?:21001|11003|31002|100[23][123]|13579|24680)\b", shown)


def test_without_systemd_there_is_a_socket_only_where_the_configuration_says(walled: Lab, path: str) -> None:
    daemon = walled.daemon(LONG)
    done = run(path)
    assert done.returncode == 1 and "does not run, or not with a socket" in done.stderr
    daemon.reload(LONG.replace("[options]", "[options]\nControl = " + path))
    assert "ssh" in knockctl(path)
    daemon.reload(LONG.replace("[options]", "[options]\nControl = none"))
    assert not os.path.exists(path)


def test_the_socket_goes_with_the_daemon_and_one_that_was_left_is_no_trouble(
    walled: Lab, place: str, path: str
) -> None:
    daemon = walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    daemon.kill()
    assert os.path.exists(path)
    assert "does not run" in run(path).stderr
    daemon = walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    knockctl(path)
    daemon.terminate()
    assert not os.path.exists(path)


def test_a_second_daemon_leaves_the_socket_alone_and_serves_without(lab: Lab, place: str, path: str) -> None:
    lab.daemon(JOB, RUNTIME_DIRECTORY=place)
    second = lab.daemon(JOB, RUNTIME_DIRECTORY=place)
    assert "another daemon listens there" in second.log
    second.terminate()
    knockctl(path)


def test_what_is_no_socket_is_left_alone(lab: Lab, place: str, path: str) -> None:
    Path(path).write_text("mine")
    daemon = lab.daemon(LONG, RUNTIME_DIRECTORY=place)
    assert "something else is there" in daemon.log
    assert Path(path).read_text() == "mine"


def test_silent_clients_hold_nobody_up(walled: Lab, place: str, path: str) -> None:
    daemon = walled.daemon(LONG, RUNTIME_DIRECTORY=place)
    silent = []
    for _ in range(40):
        silent.append(socket.socket(socket.AF_UNIX))
        silent[-1].connect(path)
    walled.knock(*KNOCKS)
    walled.opens()
    assert "try again" in run(path).stderr
    eventually(lambda: run(path).returncode == 0, "a silent client is let go")
    for caller in silent:
        caller.close()
    assert "Traceback" not in daemon.log


# The watchdog.


def test_the_watchdog_is_fed_and_nothing_else_wakes_an_idle_daemon(walled: Lab) -> None:
    daemon = walled.daemon(LONG, WATCHDOG_USEC="400000")

    def wakeups() -> int:
        text = Path("/proc/%d/status" % daemon.pid).read_text()
        return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def only_the_watchdog_wakes_it() -> bool:
        eventually(lambda: daemon.notified("WATCHDOG=1"), "WATCHDOG=1")
        before = wakeups()
        for _ in range(5):
            eventually(lambda: daemon.notified("WATCHDOG=1"), "WATCHDOG=1")
        return wakeups() - before <= 6  # one more may fall between its sleep and our look

    eventually(only_the_watchdog_wakes_it)


def test_the_watchdog_is_fed_during_a_flood(walled: Lab) -> None:
    daemon = walled.daemon(LONG, WATCHDOG_USEC="200000")
    # A frame each for 2,000 spoofed sources.
    addresses = b"\x45\0\0\x28\0\0\0\0\x40\x06\0\0\xc6\x13%s" + socket.inet_aton(SERVER)
    segment = struct.pack("!HHIIBBHHH", 40000, int(KNOCKS[0]), 1, 0, 5 << 4, SYN, 1024, 0, 0)
    ethernet = walled.mac("eth0") + bytes(6) + b"\x08\0"
    frames = [ethernet + summed(addresses % struct.pack("!H", number)) + segment for number in range(2000)]
    with walled.client, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        for _ in range(5):

            def flooded() -> bool:
                for frame in frames:
                    wire.send(frame)
                return daemon.notified("WATCHDOG=1")

            eventually(flooded, "WATCHDOG=1 during the flood")
    daemon.await_log("198.19.0.0: ssh: Stage 1")


def test_without_a_watchdog_nobody_is_fed(walled: Lab) -> None:
    daemon = walled.daemon(LONG, WATCHDOG_USEC="200000", WATCHDOG_PID="1")
    time.sleep(0.5)
    assert not daemon.notified("WATCHDOG=1")
