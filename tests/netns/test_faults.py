# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Full disks, missing files and sockets, no descriptors, floods, garbage, crashes: the daemon goes on or says why.

Every fault is real: a disk of 64 KB that is full, a socket whose reader has gone, a process that is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from ..ipv4 import summed
from .lab import (
    CLIENT,
    KNOCKS,
    OWN_MACHINE,
    PACKAGE,
    SERVER,
    SERVER6,
    SSH,
    STRANGER,
    Daemon,
    Lab,
    eventually,
    python,
    run,
    stopped,
)

LONG = SSH.format(open_timeout=600)
JOB = """
[job]
    sequence      = 21007:tcp,11005:tcp,31006:tcp
    tcpflags      = syn
    start_command = echo start >> DIR/done
    cmd_timeout   = {timeout}
    stop_command  = echo stop >> DIR/done
"""
JOB_KNOCKS = ("21007", "11005", "31006")
ONCE_KNOCKS = ("10021", "10023", "10022")

SETS_THE_CLOCK = pytest.mark.skipif(not OWN_MACHINE, reason="sets the clock: only where the machine is the test's own")


def with_options(config: str, *options: str) -> str:
    return config.replace("[options]", "\n    ".join(("[options]", *options)))


def done(lab: Lab) -> list[str]:
    """What commands have written."""
    path = lab.directory / "done"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def disk(walled: Lab) -> Iterator[Path]:
    """A disk of 64 KB."""
    path = walled.directory / "disk"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path))
    try:
        yield path
    finally:
        run("umount", "--lazy", str(path))


def fill(disk: Path) -> Path:
    """Leave not one byte; the file to remove when there is to be room again."""
    filling = disk / "filling"
    with contextlib.suppress(OSError), open(filling, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filling


# Full and read-only disks.


def test_a_full_disk_under_the_log_stops_nothing_and_the_log_goes_on_afterwards(walled: Lab, disk: Path) -> None:
    log = disk / "knockd.log"
    daemon = walled.daemon(LONG, "-g", str(log))
    log.write_text("x" * 4096 * 3)  # what it appends needs a new page
    filling = fill(disk)
    walled.knock(*KNOCKS)
    walled.opens()
    walled.knock(*KNOCKS, source=STRANGER)
    walled.opens(source=STRANGER)
    assert "OPEN SESAME" not in log.read_text()
    filling.unlink()
    walled.knock(*KNOCKS)
    eventually(lambda: "OPEN SESAME" in log.read_text())
    assert daemon.process.poll() is None


@pytest.mark.parametrize("removed", [False, True], ids=["there", "removed"])
def test_a_full_disk_under_the_log_survives_hup_and_removal(walled: Lab, disk: Path, removed: bool) -> None:
    log = disk / "knockd.log"
    daemon = walled.daemon(LONG, "-g", str(log))
    log.write_text("x" * 4096 * 3)
    fill(disk)
    walled.knock(*KNOCKS, source=STRANGER)  # lines that it cannot get rid of
    walled.opens(source=STRANGER)
    if removed:
        log.unlink()
        fill(disk)
    daemon.reload()
    walled.knock(*KNOCKS)
    walled.opens()
    assert "Traceback" not in daemon.log


def test_a_full_disk_under_the_journal_of_doors_is_said_once_and_commands_run(walled: Lab, disk: Path) -> None:
    daemon = walled.daemon(with_options(LONG + JOB.format(timeout=1), "State_Dir = DIR/disk"))
    filling = fill(disk)
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled) == ["start", "stop"])
    assert daemon.log.count("cannot write") == 1
    filling.unlink()
    daemon.reload(with_options(LONG + JOB.format(timeout=600), "State_Dir = DIR/disk"))
    walled.knock(*JOB_KNOCKS)
    eventually((disk / "open-doors.json").exists, "the journal is written again")


def test_a_one_time_sequence_can_be_used_up_on_a_full_disk(walled: Lab, disk: Path) -> None:
    once = disk / "sequences"
    once.write_text(" 10021,10023,10022\n 10031,10033,10032\n")
    walled.daemon(one_time(LONG, "DIR/disk/sequences"))
    fill(disk)
    walled.knock(*ONCE_KNOCKS)
    walled.opens()
    assert once.read_text().startswith("#10021")


def test_a_one_time_sequence_that_cannot_be_used_up_opens_nothing(walled: Lab, disk: Path) -> None:
    once = disk / "sequences"
    once.write_text(" 10021,10023,10022\n 10031,10033,10032\n")
    daemon = walled.daemon(one_time(LONG, "DIR/disk/sequences"))
    run("mount", "-o", "remount,ro", str(disk))
    walled.knock(*ONCE_KNOCKS)
    daemon.await_log("stays shut")
    assert not walled.is_open()
    run("mount", "-o", "remount,rw", str(disk))
    walled.knock(*ONCE_KNOCKS)
    walled.opens()


def one_time(config: str, path: str) -> str:
    return config.replace("sequence     = 21001:tcp,11003:tcp,31002:tcp", "one_time_sequences = %s" % path)


def test_a_log_on_a_read_only_file_system_stops_nothing(walled: Lab, disk: Path) -> None:
    run("mount", "-o", "remount,ro", str(disk))
    daemon = walled.daemon(with_options(LONG, "LogFile = DIR/disk/knockd.log"))
    walled.knock(*KNOCKS)
    walled.opens()
    daemon.reload()
    walled.knock(*KNOCKS, source=STRANGER)
    walled.opens(source=STRANGER)
    assert "cannot write the log file" in daemon.log
    assert "Traceback" not in daemon.log


# The state directory and the PID file.


@pytest.mark.parametrize("state", ["missing", "a file", "read-only"])
def test_a_state_directory_that_cannot_be_used_is_one_error_that_names_it(walled: Lab, disk: Path, state: str) -> None:
    path = disk / "state"
    if state == "a file":
        path.touch()
    elif state == "read-only":
        path.mkdir()
        run("mount", "-o", "remount,ro", str(disk))
    daemon = walled.daemon(with_options(LONG, "State_Dir = DIR/disk/state"), ready=False)
    assert daemon.process.wait() == 1
    assert daemon.log.count("\n") == 1
    assert "cannot use State_Dir %s" % path in daemon.log


def test_a_state_directory_that_is_removed_stops_nothing(walled: Lab) -> None:
    state = walled.directory / "state"
    state.mkdir()
    daemon = walled.daemon(with_options(LONG + JOB.format(timeout=1), "State_Dir = DIR/state"))
    for path in state.iterdir():
        path.unlink()
    state.rmdir()
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled) == ["start", "stop"])
    assert daemon.terminate() == 0


PATHS = ["LogFile", "PidFile", "Guard", "State_Dir", "Control", "Interface"]
ONCE = LONG.replace("sequence     = 21001:tcp,11003:tcp,31002:tcp", "one_time_sequences = /etc/on\0ce")


@pytest.mark.parametrize(
    ("broken", "line"),
    [*((with_options(LONG, "%s = /et\0c" % key), 3) for key in PATHS), (ONCE, 6)],
    ids=[*PATHS, "once"],
)
def test_a_nul_byte_in_a_path_is_an_error_of_its_line_at_start_with_check_and_at_hup(
    walled: Lab, broken: str, line: int
) -> None:
    config = walled.directory / "broken.conf"
    config.write_text(broken)
    for asked in (knockd(walled, "--check", "-c", str(config)), knockd(walled, "-i", "eth0", "-c", str(config))):
        assert (asked.returncode, asked.stderr.count("\n")) == (1, 1)
        assert asked.stderr.startswith("knockd: %s:%d: " % (config, line))
    daemon = walled.daemon(LONG)
    daemon.reload(broken)
    assert "keeping the old configuration: %s:%d: " % (daemon.config, line) in daemon.log
    walled.knock(*KNOCKS)
    walled.opens()


def test_a_nul_byte_in_the_guard_file_keeps_the_old_guard(walled: Lab) -> None:
    guard = walled.directory / "guard"
    guard.write_text("[ssh]\nports = 22/tcp\n")
    daemon = walled.daemon(with_options(LONG, "Guard = DIR/guard"))
    before = walled.server.run("nft", "list", "table", "inet", "knockd")
    guard.write_text("[ssh]\nports = 80/tcp\nallow = \0\n")
    daemon.reload()
    assert "keeping the old configuration: %s:3: " % guard in daemon.log
    assert walled.server.run("nft", "list", "table", "inet", "knockd") == before


def test_a_nul_byte_in_a_file_of_one_time_sequences_spoils_its_own_line_only(walled: Lab) -> None:
    (walled.directory / "once").write_bytes(b" 10031,\x0010033,10032\n 10021,10023,10022\n\0\n")
    walled.daemon(one_time(LONG, "DIR/once"))
    walled.knock(*ONCE_KNOCKS)
    walled.opens()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_door_may_have_any_name_in_any_locale(walled: Lab, encoding: str) -> None:
    config = walled.directory / "named.conf"
    config.write_bytes(LONG.encode().replace(b"[ssh]", b"[\xc5\xbe\xff]"))
    asked = knockd(walled, "--check", "-c", str(config), PYTHONIOENCODING=encoding)
    assert asked.returncode == 0, asked.stderr


def test_a_pid_file_that_cannot_be_written_is_an_error_and_leaves_nothing_behind(walled: Lab) -> None:
    config = walled.directory / "knockd.conf"
    config.write_text(LONG)
    asked = knockd(walled, "-d", "-c", str(config), "-i", "eth0", "-p", "/nonexistent/pid")
    assert asked.returncode == 1
    assert "/nonexistent/pid" in asked.stderr
    assert "Traceback" not in asked.stderr
    eventually(lambda: "knockd" not in walled.server.run("nft", "list", "ruleset"))


def knockd(
    lab: Lab, *arguments: str, through: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        lab.server.command(*through, python(), "-m", "knockd", *arguments),
        env={**own, **environment},
        capture_output=True,
        text=True,
        errors="replace",
    )


# Descriptors and sockets.


def test_without_free_descriptors_doors_still_open(walled: Lab) -> None:
    config = with_options(LONG + JOB.format(timeout=1), "State_Dir = DIR")
    daemon = walled.daemon(config)
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled) == ["start", "stop"])
    run("prlimit", "--pid", str(daemon.pid), "--nofile=3:4096")
    walled.knock(*KNOCKS)
    walled.opens()
    walled.knock(*JOB_KNOCKS)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.await_log("keeping the old configuration")
    run("prlimit", "--pid", str(daemon.pid), "--nofile=1024:4096")
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled)[-2:] == ["start", "stop"] and len(done(walled)) >= 4)
    walled.knock(*KNOCKS, source=STRANGER)
    walled.opens(source=STRANGER)
    assert "Traceback" not in daemon.log


CLOSED = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")


def test_it_works_without_standard_streams(walled: Lab) -> None:
    walled.daemon(LONG + JOB.format(timeout=1), through=CLOSED)
    walled.knock(*KNOCKS)
    walled.opens()
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled) == ["start", "stop"])


def test_it_becomes_a_daemon_without_standard_streams(walled: Lab) -> None:
    config, pid_file = walled.directory / "knockd.conf", walled.directory / "pid"
    config.write_text(LONG)
    log = walled.directory / "log"
    started = knockd(walled, "-d", "-c", str(config), "-i", "eth0", "-p", str(pid_file), "-g", str(log), through=CLOSED)
    assert started.returncode == 0
    pid = int(pid_file.read_text())
    try:
        walled.knock(*KNOCKS)
        walled.opens()
    finally:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: not Path("/proc/%d" % pid).exists())
    assert "shutting down" in log.read_text()


def test_a_notify_socket_that_nobody_reads_any_more_is_no_trouble(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    daemon._notify.close()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.await_log("re-reading")
    walled.knock(*KNOCKS)
    walled.opens()
    assert daemon.terminate() == 0


def test_syslog_may_be_absent_come_go_and_be_full(walled: Lab) -> None:
    dev = walled.directory / "dev"
    dev.mkdir()
    (dev / "null").touch()
    # A /dev of its own, so that /dev/log is the test's.
    own = 'mount --bind /dev/null "$0/null" && mount --rbind "$0" /dev && exec "$@"'
    through = ("unshare", "--mount", "sh", "-c", own, str(dev))
    daemon = walled.daemon(with_options(LONG, "UseSyslog"), through=through)

    def knock_is_heard(syslog: socket.socket) -> bool:
        walled.knock(*KNOCKS)
        with contextlib.suppress(OSError):
            while True:
                if b"OPEN SESAME" in syslog.recv(4096):
                    return True
        return False

    walled.knock(*KNOCKS)
    walled.opens()
    for _restart in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
            syslog.bind(str(dev / "log"))
            syslog.settimeout(0.2)
            eventually(lambda syslog=syslog: knock_is_heard(syslog))  # type: ignore[misc]
        (dev / "log").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(dev / "log"))  # and nobody reads it
        for _ in range(20):
            walled.knock(*KNOCKS)
        walled.knock(*KNOCKS, source=STRANGER)
        walled.opens(source=STRANGER)
    assert daemon.process.poll() is None


# Clocks.


@pytest.mark.parametrize("step", [-(10**9), 10**9], ids=["forward", "back"])
def test_a_stop_command_that_is_due_survives_a_clock_that_was_set_between_two_daemons(walled: Lab, step: int) -> None:
    config = with_options(LONG + JOB.format(timeout=2), "State_Dir = DIR")
    daemon = walled.daemon(config)
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled) == ["start"])
    daemon.kill()
    journal = walled.directory / "open-doors.json"
    entries = json.loads(journal.read_text())
    entries[0]["deadline"] += step  # the same to the daemon as a clock that has moved the other way
    journal.write_text(json.dumps(entries))
    walled.daemon(config)
    eventually(lambda: done(walled) == ["start", "stop"])


@SETS_THE_CLOCK
@pytest.mark.parametrize("step", [-86400.0, 86400.0])
def test_a_step_of_the_clock_moves_no_deadline(walled: Lab, step: float) -> None:
    daemon = walled.daemon(with_options(SSH.format(open_timeout=20) + JOB.format(timeout=20), "State_Dir = DIR"))
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled) == ["start"])
    walled.knock(*KNOCKS[:2])
    daemon.await_log("ssh: Stage 2")
    try:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + step)
        walled.knock(KNOCKS[2])
        walled.opens()
        assert done(walled) == ["start"]
        eventually(lambda: done(walled) == ["start", "stop"])
        walled.closes()
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - step)


# A turn that takes long, and one that fails.

SHORT = SSH.format(open_timeout=600).replace("seq_timeout  = 5", "seq_timeout  = {window}")


def with_windows(window: float) -> str:
    """A native door and a command door with so short a window."""
    job = JOB.format(timeout=600).replace("tcpflags ", "seq_timeout = %s\n    tcpflags " % window)
    return with_options(SHORT.format(window=window) + job, "State_Dir = DIR/state")


def test_a_disk_that_stalls_for_longer_than_two_windows_stops_nothing(walled: Lab) -> None:
    state = walled.directory / "state"
    state.mkdir()
    journal = state / "open-doors.json.new"
    os.mkfifo(journal)  # whoever opens it waits until somebody reads
    daemon = walled.daemon(with_windows(1))
    walled.knock(*JOB_KNOCKS)
    daemon.await_log("job: OPEN SESAME")
    assert not done(walled), "its disk stalls before the command runs"
    time.sleep(3)
    with open(journal, "rb", buffering=0):
        eventually(lambda: done(walled) == ["start"])
        walled.knock(*KNOCKS)
        walled.opens()
    assert "Traceback" not in daemon.log and daemon.process.poll() is None


def test_thousands_of_replays_at_a_command_door_stop_nothing(walled: Lab) -> None:
    (walled.directory / "state").mkdir()
    config = with_windows(0.005)
    daemon = walled.daemon(config)
    with stopped(daemon):  # all of them wait, for one turn
        for _ in range(1000):
            walled.knock(*JOB_KNOCKS)
    daemon.await_log("job: OPEN SESAME")
    daemon.reload(config.replace("0.005", "5"))
    walled.knock(*KNOCKS)
    walled.opens()
    assert "Traceback" not in daemon.log and daemon.process.poll() is None


@pytest.mark.parametrize("key", ["seq_timeout", "cmd_timeout"])
def test_a_time_of_months_stops_nothing(walled: Lab, key: str) -> None:
    """epoll_wait(2) takes no more than 25 days."""
    (walled.directory / "state").mkdir()
    daemon = walled.daemon(re.sub(r"%s *= .*" % key, "%s = %d" % (key, 300 * 86400), with_windows(1)))
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled) == ["start"])
    time.sleep(2)  # nothing else is due any more
    walled.knock(*KNOCKS)
    walled.opens()
    assert daemon.process.poll() is None, daemon.log


PARTS = [
    *("strays.Strays.changes", "strays.Strays.progress", "tracker.Tracker.expire", "tracker.Tracker.next_deadline"),
    *("commands.Commands.expire", "commands.Commands.reap", "capture.Capture.on_time", "capture.Capture.next_deadline"),
    *("capture.Capture.pause", "control.Control.expire", "lookout.Lookout.due", "lookout.Lookout.next_deadline"),
    *("log.Log.progress", "log.Log.withheld", "links.Links.read", "notify.Notifier.alive"),
]


@pytest.mark.parametrize("part", PARTS)
def test_one_part_of_a_turn_may_fail_without_the_others(walled: Lab, part: str) -> None:
    """Each time, from the first knock on; with a message that holds a sequence."""
    injected = walled.directory / "injected"
    injected.mkdir()
    module, name, method = part.split(".")
    (injected / "sitecustomize.py").write_text(
        "import os, knockd.%s as module\n"
        "def fails(*arguments):\n"
        "    if os.path.exists(%r):\n"
        "        raise ValueError('21001:tcp,11003:tcp,31002:tcp')\n"
        "    return works(*arguments)\n"
        "works = module.%s.%s\n"
        "module.%s.%s = fails\n" % (module, str(injected / "now"), name, method, name, method)
    )
    daemon = walled.daemon(
        LONG + JOB.format(timeout=600), PYTHONPATH="%s:%s" % (injected, PACKAGE), WATCHDOG_USEC="400000"
    )
    (injected / "now").touch()
    walled.server.ip("link", "set", "lo", "mtu", "9000")  # news for Links
    walled.knock(*JOB_KNOCKS)
    eventually(lambda: done(walled) == ["start"])
    walled.knock(*KNOCKS)
    walled.opens()
    daemon.await_log("ValueError at ")
    before = processor_time(daemon)
    time.sleep(1)
    assert processor_time(daemon) - before < 0.5, "what fails each time keeps it busy"
    walled.knock(*KNOCKS, source=STRANGER)
    walled.opens(source=STRANGER)
    (told,) = [line for line in daemon.log.splitlines() if "ValueError" in line]
    assert re.search(r"\b[a-z_]+\.py:\d+", told)
    assert not [port for port in KNOCKS if port in told]
    assert "Traceback" not in daemon.log
    assert daemon.terminate() == 0


def processor_time(daemon: Daemon) -> float:
    """Seconds."""
    fields = Path("/proc/%d/stat" % daemon.pid).read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Floods, garbage and crashes.


@contextlib.contextmanager
def sending(lab: Lab, frames: Callable[[], Iterator[bytes]]) -> Iterator[None]:
    """Frames on the client's end of the cable meanwhile; as many as fit, and 100,000 at most."""
    stop = threading.Event()
    target = lab.mac("eth0")

    with lab.client:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind(("eth0", 0))

    def send() -> None:
        with wire:
            for _count, frame in zip(range(100_000), frames()):
                if stop.is_set():
                    return
                with contextlib.suppress(OSError):
                    wire.send(target + bytes.fromhex("020000000001") + frame)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def syn(port: int, source: bytes = bytes((198, 18, 0, 1))) -> bytes:
    """An IPv4 packet to the server, tcp's checksum left out: the tap takes it, and tcp drops it."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 7, 0, 64, 6, 0) + source + socket.inet_aton(SERVER)
    return summed(header) + struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 64240, 0, 0)


def spoofed_first_knocks() -> Iterator[bytes]:
    chance = random.Random(7)
    while True:
        yield b"\x08\x00" + syn(int(KNOCKS[0]), b"\xc6\x13" + chance.randbytes(2))


def garbage() -> Iterator[bytes]:
    """Knocks that were damaged on the way, in every envelope, and bytes that never were a packet."""
    chance = random.Random(1)
    six = socket.inet_pton(socket.AF_INET6, "fd00:5e5a::1") + socket.inet_pton(socket.AF_INET6, SERVER6)
    while True:
        port = int(chance.choice(KNOCKS))
        segment = syn(port)[20:]
        extension = bytes((6, 0)) + bytes(6)  # RFC 8200, 4.3: a hop-by-hop header in front of tcp
        kind, body = chance.choice(
            [
                (b"\x08\x00", syn(port)),
                (b"\x08\x00", syn(port).replace(b"\x45", b"\x4f", 1) + bytes(40)),  # options that are no options
                (b"\x08\x00", syn(port)[:6] + struct.pack("!H", chance.randrange(65536)) + syn(port)[8:]),  # fragments
                (b"\x08\x00", syn(port) + bytes(chance.choice((1400, 8000)))),  # jumbo, and longer than it says
                (b"\x86\xdd", struct.pack("!IHBB", 6 << 28, 20, 6, 64) + six + segment),
                (b"\x86\xdd", struct.pack("!IHBB", 6 << 28, 28, 0, 64) + six + extension + segment),
                (b"\x81\x00", b"\x00\x64\x08\x00" + syn(port)),
                (b"\x88\xa8\x00\x64\x81\x00", b"\x00\x64\x08\x00" + syn(port)),
                (chance.randbytes(2), syn(port)),
                (chance.randbytes(2), chance.randbytes(chance.randrange(200))),
            ]
        )
        damaged = bytearray(body)
        for _ in range(chance.choice((0, 1, 1, 3))):
            if damaged:
                damaged[chance.randrange(min(60, len(damaged)))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged) + 1) :]
        if kind == b"\x08\x00" and len(damaged) >= 60 and chance.random() < 0.8:  # past the checksum
            damaged[:] = summed(bytes(damaged))
        yield kind + bytes(damaged)


def resident(daemon: Daemon) -> int:
    """Kilobytes."""
    status = Path("/proc/%d/status" % daemon.pid).read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def test_garbage_from_the_wire_is_no_trouble(walled: Lab) -> None:
    walled.server.ip("link", "set", "eth0", "mtu", "9000")
    walled.client.ip("link", "set", "eth0", "mtu", "9000")
    daemon = walled.daemon(LONG)
    with sending(walled, lambda: (frame for _, frame in zip(range(5000), garbage()))):
        pass
    before = resident(daemon)
    with sending(walled, garbage):
        for server in (SERVER, SERVER6):
            walled.knock(*KNOCKS, to=server, source=STRANGER if server == SERVER else None)
            walled.opens(server, source=STRANGER if server == SERVER else None)
        time.sleep(1)
    assert resident(daemon) - before < 32 << 10
    assert "Traceback" not in daemon.log
    assert daemon.process.poll() is None


def test_many_hups_during_a_flood_keep_nobody_out(walled: Lab) -> None:
    daemon = walled.daemon(LONG)

    def opens() -> bool:
        for _ in range(5):
            daemon.process.send_signal(signal.SIGHUP)
        walled.knock(*KNOCKS)  # again if need be: on a loaded machine the kernel's queue may overflow
        return walled.is_open()

    with sending(walled, spoofed_first_knocks):
        for _ in range(20):
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        eventually(opens)
    daemon.await_log("re-reading")
    assert "keeping" not in daemon.log
    assert "Traceback" not in daemon.log


def test_term_during_a_flood_ends_it(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    walled.knock(*KNOCKS)
    walled.opens()
    with sending(walled, spoofed_first_knocks):
        daemon.await_log("198.19.")
        assert daemon.terminate() == 0
    assert not walled.is_open()


def test_sigkill_at_any_moment_under_load_leaves_no_hole_and_the_next_daemon_starts(walled: Lab) -> None:
    chance = random.Random(3)
    config = with_options(LONG + JOB.format(timeout=600), "State_Dir = DIR", "LogFile = DIR/log")
    with sending(walled, spoofed_first_knocks):
        for _turn in range(5):
            daemon = walled.daemon(config)
            walled.knock(*JOB_KNOCKS)
            walled.knock(*KNOCKS)
            time.sleep(chance.random() / 20)
            daemon.kill()
            # A command that is just being started holds our descriptors until its exec.
            eventually(lambda: "knockd" not in walled.server.run("nft", "list", "tables"), "the table goes")
            assert not walled.is_open()
        daemon = walled.daemon(config)
        walled.knock(*KNOCKS)
        walled.opens()
    assert daemon.terminate() == 0
    assert (done(walled) or ["stop"])[-1] == "stop"
    assert "cannot read" not in (walled.directory / "log").read_text()


def test_a_one_time_sequence_is_never_valid_twice_whenever_the_daemon_is_killed(walled: Lab) -> None:
    chance = random.Random(5)
    once = walled.directory / "sequences"
    sequences = [("10021", "10023", "10022"), ("10031", "10033", "10032"), ("10041", "10043", "10042")]
    once.write_text("".join(" %s\n" % ",".join(knocks) for knocks in sequences))
    for number, knocks in enumerate(sequences):
        daemon = walled.daemon(one_time(LONG, "DIR/sequences"))
        walled.knock(*knocks)
        time.sleep(chance.random() / 100)
        daemon.kill()
        used = once.read_text().splitlines()[number].startswith("#")
        assert used or "OPEN SESAME" not in daemon.log
        daemon = walled.daemon(one_time(LONG, "DIR/sequences"))
        walled.knock(*knocks)
        if used and number + 1 < len(sequences):  # the next sequence opens, the used one has not
            assert not walled.is_open()
        elif not used:
            walled.opens()
        daemon.kill()
        assert once.read_text().splitlines()[number].startswith("#")


# Limits of the kernel.


def test_a_thousand_knock_ports_are_filtered_whatever_the_kernel_s_limit(walled: Lab) -> None:
    ports = random.Random(2).sample(range(1024, 21000), 999)
    doors = "".join(
        "[door%d]\nsequence = %s\ntcpflags = syn\nopen_ports = %d/tcp\n"
        % (number, ",".join(map(str, ports[number * 3 : number * 3 + 3])), 40000 + number)
        for number in range(333)
    )
    daemon = walled.daemon(LONG + doors)
    walled.knock(*KNOCKS)
    walled.opens()
    walled.knock(*(str(port) for port in ports[-3:]))
    daemon.await_log("%s: door332: OPEN SESAME" % CLIENT)
