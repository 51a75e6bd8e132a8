# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bugs of C knockd 0.8, by their numbers in docs/compatibility.md: C knockd has each one, ours has none.

Every test runs with both daemons and the same configuration; a claim has to hold for ours and must not for C knockd.
One that fails for C knockd says that the bug is gone there, and docs/compatibility.md out of date.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from ..ipv4 import summed
from .lab import CLIENT, SERVER, SERVER6, STRANGER, SYN, Daemon, Lab, context_switches, eventually

ONE, TWO, THREE = "21001", "11003", "31002"
END = "19999"
JOB = """
[job]
    sequence      = 21001:tcp,11003:tcp,31002:tcp
    seq_timeout   = 600
    tcpflags      = syn
    start_command = echo start %IP% >> DIR/done
"""
STOP = "    cmd_timeout  = {timeout}\n    stop_command = echo stop %IP% >> DIR/done\n"
LAST = "\n[end]\n    sequence = 19999\n    start_command = true\n"


class Knockd:
    """C knockd or ours: a process, and the log that both write."""

    def __init__(self, lab: Lab, ours: bool) -> None:
        self.lab = lab
        self.ours = ours
        self.directory = lab.directory
        self.options = ""
        """Lines for [options] that C knockd would not understand."""
        self._rivals: list[subprocess.Popen[bytes]] = []
        self._ends = 0

    def start(self, config: str, *arguments: str, interface: str = "eth0", ready: bool = True) -> None:
        """Starts it; without `ready` only tries."""
        config = (("[options]\n" + self.options if self.ours and self.options else "") + config + LAST).replace(
            "DIR", str(self.directory)
        )
        arguments = ("-g", str(self.directory / "log"), *arguments)
        self._before = len(self.log)
        self._ends = 0
        self._daemon: Daemon | None = None
        if self.ours:
            self._daemon = self.lab.daemon(config, *arguments, interface=interface, ready=ready)
            self.process = self._daemon.process
            return
        (self.directory / "knockd.conf").write_text(config)
        command = ("knockd", "-c", str(self.directory / "knockd.conf"), "-i", interface, *arguments)
        with open(self.directory / "output", "wb") as output:
            self.process = subprocess.Popen(self.lab.server.command(*command), stdout=output, stderr=subprocess.STDOUT)
        self._rivals.append(self.process)
        if ready:
            while self.process.poll() is None and "starting up" not in self.log[self._before :]:
                time.sleep(0.02)  # with 1,000 doors this takes C knockd many seconds
            assert self.process.poll() is None, self.output

    def remove(self) -> None:
        for rival in self._rivals:
            kill_all(rival)

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""  # C knockd may log memory that it has freed

    @property
    def output(self) -> str:
        if self._daemon:
            return self._daemon.log
        return (self.directory / "output").read_text()

    @property
    def done(self) -> list[str]:
        """What commands have written."""
        path = self.directory / "done"
        return path.read_text().splitlines() if path.exists() else []

    def opened(self, door: str = "job", end: str = SERVER) -> int:
        """How often a door has opened, when everything sent until now has been taken in."""
        self._ends += 1
        self.lab.knock(END, to=end, source=STRANGER if end == SERVER else None)
        eventually(
            lambda: self.process.poll() is not None or self.log[self._before :].count("end: OPEN SESAME") == self._ends
        )
        return self.log[self._before :].count(": %s: OPEN SESAME" % door)

    def fixes(self, claim: bool) -> None:
        """Asserts what has to hold for ours and does not for C knockd."""
        if self.ours:
            assert claim, self.log + self.output
        else:
            assert not claim, "C knockd does not have this bug any more: " + self.log + self.output


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Ends a daemon and whatever it has started, as a service manager does."""
    family = {process.pid}
    for path in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parts[2])):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) in family:
                family.add(int(path.parts[2]))
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            if pid != process.pid or process.poll() is None:
                os.kill(pid, signal.SIGKILL)
    process.wait()


def frame(target: bytes, source: bytes, port: int, tag: bytes = b"") -> bytes:
    """A first segment of tcp to the server, as a frame of Ethernet."""
    segment = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, SYN, 1024, 0, 0)
    header = struct.pack("!BBHIBBH4s4s", 0x45, 0, 40, 0, 64, 6, 0, source, socket.inet_aton(SERVER))
    return target + bytes(6) + tag + b"\x08\x00" + summed(header + segment)


def send(lab: Lab, frames: Iterable[bytes], burst: int = 200) -> None:
    """Puts frames on the wire, in bursts that every receive buffer can take."""
    with lab.client, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind(("eth0", 0))
        for number, data in enumerate(frames, 1):
            wire.send(data)
            if number % burst == 0:
                time.sleep(0.01)


def spoofed(number: int) -> bytes:
    """A source out of many."""
    return struct.pack("!I", (198 << 24) + (19 << 16) + number)


@pytest.fixture(params=["C knockd", "ours"])
def knockd(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Knockd]:
    made = Knockd(lab, request.param == "ours")
    try:
        yield made
    finally:
        made.remove()


def test_1_who_finishes_does_not_wipe_the_attempt_of_another(knockd: Knockd) -> None:
    knockd.start(JOB)
    knockd.lab.knock(ONE, source=STRANGER)
    knockd.lab.knock(ONE, TWO)
    knockd.lab.knock(TWO, THREE, source=STRANGER)
    knockd.lab.knock(THREE)
    knockd.opened()
    knockd.fixes("%s: job: OPEN SESAME" % CLIENT in knockd.log)


def test_1_who_fails_does_not_wipe_the_attempt_of_another(knockd: Knockd) -> None:
    knockd.start(JOB)
    knockd.lab.knock(ONE, source=STRANGER)
    knockd.lab.knock(ONE, TWO)
    knockd.lab.knock(THREE, source=STRANGER)
    knockd.lab.knock(THREE)
    knockd.fixes(knockd.opened() == 1)


def test_2_a_port_scan_opens_nothing(knockd: Knockd) -> None:
    knockd.start(JOB.replace("21001:tcp,11003:tcp,31002:tcp", "7000,8000,9000"))
    for port in range(6900, 9100):
        knockd.lab.send_tcp(port, SYN)
    knockd.fixes(knockd.opened() == 0)


ONE_TIME = JOB.replace("sequence      = 21001:tcp,11003:tcp,31002:tcp", "one_time_sequences = DIR/sequences")


def test_3_a_file_of_used_sequences_ends_the_door_and_not_the_daemon(knockd: Knockd) -> None:
    (knockd.directory / "sequences").write_text(" 21001,11003,31002\n")
    knockd.start(ONE_TIME)
    knockd.lab.knock(ONE, TWO, THREE)
    knockd.opened()
    knockd.fixes(knockd.process.poll() is None)


def test_3_with_a_file_of_used_sequences_it_starts(knockd: Knockd) -> None:
    (knockd.directory / "sequences").write_text("#21001,11003,31002\n")
    knockd.start(ONE_TIME, ready=False)
    eventually(lambda: knockd.process.poll() is not None or "starting up" in knockd.log)
    knockd.fixes(knockd.process.poll() is None)


def test_4_a_bad_line_keeps_no_used_sequence_valid(knockd: Knockd) -> None:
    (knockd.directory / "sequences").write_text(" 80:sctp,1\n 21001,11003,31002\n 5000,4000,6000\n")
    knockd.start(ONE_TIME)
    knockd.lab.knock(ONE, TWO, THREE)
    assert knockd.opened() == 1
    knockd.lab.knock(ONE, TWO, THREE)
    knockd.fixes(knockd.opened() == 1)


def test_5_over_ipv6_the_second_sequence_works_too(knockd: Knockd) -> None:
    (knockd.directory / "sequences").write_text(" 21001,11003,31002\n 5000,4000,6000\n 1,3,2\n")
    knockd.start(ONE_TIME)
    knockd.lab.knock(ONE, TWO, THREE, to=SERVER6)
    assert knockd.opened(end=SERVER6) == 1
    knockd.lab.knock("5000", "4000", "6000", to=SERVER6)
    knockd.fixes(knockd.opened(end=SERVER6) == 2)


def test_6_term_closes_what_is_open_and_does_not_wait(knockd: Knockd) -> None:
    knockd.start(JOB + STOP.format(timeout=60))
    knockd.lab.knock(ONE, TWO, THREE)
    eventually(lambda: knockd.done == ["start " + CLIENT])
    knockd.process.terminate()
    if knockd.ours:
        knockd.process.wait(15)
    else:
        time.sleep(2)  # the rest of cmd_timeout would be a minute
    knockd.fixes(knockd.process.poll() is not None and knockd.done == ["start " + CLIENT, "stop " + CLIENT])


def test_6_after_kill_the_next_start_closes(knockd: Knockd) -> None:
    knockd.options = "State_Dir = DIR\n"
    knockd.start(JOB + STOP.format(timeout=1))
    knockd.lab.knock(ONE, TWO, THREE)
    eventually(lambda: knockd.done == ["start " + CLIENT])
    kill_all(knockd.process)
    time.sleep(1)
    knockd.start(JOB + STOP.format(timeout=1))
    if knockd.ours:
        eventually(lambda: len(knockd.done) == 2)
    else:
        knockd.opened()
    knockd.fixes(knockd.done == ["start " + CLIENT, "stop " + CLIENT])


def test_7_an_address_may_come_later(knockd: Knockd) -> None:
    knockd.lab.unplug("eth0")
    knockd.lab.plug("eth0", addresses=False)
    knockd.start(JOB)
    knockd.lab.address("eth0")
    if knockd.ours:
        eventually(lambda: SERVER in knockd.log)
    knockd.lab.knock(ONE, TWO, THREE)
    if not knockd.ours:
        time.sleep(1)  # it would not hear the end either
    knockd.fixes((knockd.opened() if knockd.ours else knockd.log.count("OPEN SESAME")) == 1)


def test_7_any_interface_matches(knockd: Knockd) -> None:
    knockd.start(JOB, interface="any")
    knockd.lab.knock(ONE, TWO, THREE)
    if not knockd.ours:
        time.sleep(1)
    knockd.fixes((knockd.opened() if knockd.ours else knockd.log.count("OPEN SESAME")) == 1)


def test_8_a_deleted_interface_does_not_end_it_as_if_all_were_well(knockd: Knockd) -> None:
    knockd.start(JOB)
    knockd.lab.unplug("eth0")
    eventually(lambda: knockd.process.poll() is not None or "eth0: gone" in knockd.log)
    knockd.fixes(knockd.process.poll() != 0)


def test_9_a_tagged_frame_is_a_knock(knockd: Knockd) -> None:
    knockd.start(JOB)
    target, source = knockd.lab.mac("eth0"), socket.inet_aton(CLIENT)
    priority_only = b"\x81\x00\x00\x00"  # IEEE 802.1Q, VLAN 0: Linux takes it as a frame of the interface itself
    send(knockd.lab, [frame(target, source, int(port), priority_only) for port in (ONE, TWO, THREE)])
    knockd.fixes(knockd.opened() == 1)


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun here")
def test_9_ipv6_over_a_link_without_ethernet(knockd: Knockd) -> None:
    with knockd.lab.server:
        link = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(link, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
    try:
        knockd.lab.server.ip("link", "set", "tun0", "up")
        knockd.lab.server.ip("address", "add", "fd00:5e5a:9::2/64", "dev", "tun0", "nodad")
        knockd.start(JOB, interface="tun0")
        source, destination = (socket.inet_pton(socket.AF_INET6, "fd00:5e5a:9::%d" % host) for host in (1, 2))
        for port in map(int, (ONE, TWO, THREE)):
            segment = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, SYN, 1024, 0, 0)
            os.write(link, struct.pack("!IHBB16s16s", 6 << 28, len(segment), 6, 64, source, destination) + segment)
        if knockd.ours:
            eventually(lambda: "OPEN SESAME" in knockd.log)
        else:
            eventually(lambda: "not supported" in knockd.output)
        knockd.fixes("OPEN SESAME" in knockd.log)
    finally:
        os.close(link)


def test_10_a_packet_costs_the_same_whoever_else_knocks(knockd: Knockd) -> None:
    knockd.start(JOB)
    target = knockd.lab.mac("eth0")
    packet = frame(target, socket.inet_aton(STRANGER), int(TWO))  # passes the filter, and is nothing

    def cost() -> int:
        """Nanoseconds of processor time for the same packets."""
        used = Path("/proc/%d/schedstat" % knockd.process.pid)
        before = int(used.read_text().split()[0])
        send(knockd.lab, [packet] * 4000, burst=50)
        knockd.opened()
        return int(used.read_text().split()[0]) - before

    send(knockd.lab, [frame(target, spoofed(number), int(ONE)) for number in range(10)])
    few = cost()
    send(knockd.lab, [frame(target, spoofed(number), int(ONE)) for number in range(10, 5000)], burst=50)
    knockd.opened()
    knockd.fixes(cost() < 3 * few)


def test_11_hup_with_a_bad_file_keeps_it_running(knockd: Knockd) -> None:
    knockd.start(JOB)
    (knockd.directory / "knockd.conf").write_text(JOB + "nonsense\n")
    knockd.process.send_signal(signal.SIGHUP)
    eventually(lambda: knockd.process.poll() is not None or "keeping the old" in knockd.log)
    knockd.fixes(knockd.process.poll() is None)


def test_11_hup_loses_no_knock_in_progress(knockd: Knockd) -> None:
    knockd.start(JOB, "-v")
    knockd.lab.knock(ONE, TWO)
    eventually(lambda: "Stage 2" in knockd.log)
    knockd.process.send_signal(signal.SIGHUP)
    eventually(lambda: ("re-reading" if knockd.ours else "re-opening") in knockd.output)
    knockd.lab.knock(THREE)
    knockd.fixes(knockd.opened() == 1)


def test_12_a_packet_that_comes_twice_voids_nothing(knockd: Knockd) -> None:
    knockd.start(JOB)
    knockd.lab.knock(ONE, TWO, TWO, THREE)
    knockd.fixes(knockd.opened() == 1)


def test_13_another_door_can_be_knocked_on_meanwhile(knockd: Knockd) -> None:
    knockd.start(
        JOB + JOB.replace("[job]", "[other]").replace("21001:tcp,11003:tcp,31002", "25001:tcp,15003:tcp,35002")
    )
    knockd.lab.knock(ONE, "25001", "15003", "35002")
    knockd.fixes(knockd.opened("other") == 1)


@pytest.mark.parametrize("line", ["sequence = 25001,15003:tcp # note", "tcpflags = syn # note", "[other] # note"])
def test_14_a_comment_after_a_value_is_a_comment(knockd: Knockd, line: str) -> None:
    knockd.start(JOB.replace("[job]", line) if line.startswith("[") else JOB + line + "\n", ready=False)
    eventually(lambda: knockd.process.poll() is not None or "starting up" in knockd.log)
    knockd.fixes(knockd.process.poll() is None)


def test_14_a_comment_is_no_part_of_a_file_name(knockd: Knockd) -> None:
    # C knockd's configuration beats -g.
    knockd.start("[options]\nlogfile = DIR/log   #note\n" + JOB, ready=False)
    eventually(lambda: any("starting up" in path.read_text() for path in knockd.directory.glob("log*")))
    knockd.fixes(not (knockd.directory / "log   #note").exists())


@pytest.mark.parametrize("line", ["sequence = -5,abc,,80x", "seq_timeout = abc", "cmd_timeout = 5s"])
def test_15_nonsense_in_numbers_is_an_error(knockd: Knockd, line: str) -> None:
    knockd.start(JOB + line + "\n", ready=False)
    eventually(lambda: knockd.process.poll() is not None or "starting up" in knockd.log)
    knockd.fixes(knockd.process.poll() == 1)


def test_15_an_unknown_option_is_an_error(knockd: Knockd) -> None:
    knockd.start(JOB, "--frobnicate", ready=False)
    knockd.fixes(knockd.process.wait(15) != 0)


def test_16_a_knock_while_open_opens_nothing_again(knockd: Knockd) -> None:
    knockd.start(JOB + STOP.format(timeout=3))
    knockd.lab.knock(ONE, TWO, THREE)
    eventually(lambda: knockd.done == ["start " + CLIENT])
    knockd.lab.knock(ONE, TWO, THREE)
    assert knockd.opened() == 2
    eventually(lambda: "stop " + CLIENT in knockd.done)
    knockd.fixes(knockd.done == ["start " + CLIENT, "stop " + CLIENT])


@pytest.mark.parametrize("knockd", ["ours"], indirect=True)
def test_17_term_after_a_flood_ends_it(knockd: Knockd) -> None:
    # C knockd was seen once to hang for good here: what it does in its handler may deadlock, but cannot be made to.
    knockd.start(JOB)
    target = knockd.lab.mac("eth0")
    send(knockd.lab, [frame(target, spoofed(number), int(ONE)) for number in range(20_000)])
    knockd.process.terminate()
    assert knockd.process.wait(15) == 0


def test_18_the_kernel_filters_for_a_thousand_doors(knockd: Knockd) -> None:
    doors = "".join(
        "[door%d]\nsequence = %d\nstart_command = true\n" % (number, 2000 + 7 * number) for number in range(1000)
    )
    knockd.start(doors)
    noise = frame(knockd.lab.mac("eth0"), socket.inet_aton(STRANGER), 1)

    def wakes() -> bool:
        before = context_switches(knockd.process.pid)
        send(knockd.lab, [noise] * 2000)
        time.sleep(0.2)
        return context_switches(knockd.process.pid) > before

    # Twice: what the start has left to do is no noise.
    knockd.fixes(not (wakes() and wakes()))


def test_the_classic_log_lines_are_the_same(knockd: Knockd) -> None:
    knockd.start(
        JOB.replace(">> DIR/done", ">> DIR/done; exit 3").replace("= 600", "= 1") + STOP.format(timeout=1),
    )
    knockd.lab.knock(ONE, TWO, THREE)
    eventually(lambda: "stop " + CLIENT in knockd.done)
    knockd.lab.knock(ONE)
    time.sleep(2)  # C knockd counts whole seconds, and notices with the next packet
    knockd.opened()
    knockd.process.send_signal(signal.SIGHUP)
    eventually(lambda: "re-reading" in knockd.log)
    time.sleep(0.5)
    knockd.process.terminate()
    knockd.process.wait(15)
    prefixes, lines = zip(*(line.split("] ") for line in knockd.log.splitlines() if line))
    assert all(re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d", prefix) for prefix in prefixes)
    ours_alone = ("listening on ", "at most ", "warning: ")
    assert [line for line in lines if not line.startswith(ours_alone) and "end: " not in line] == [
        "starting up, listening on eth0",
        *("%s: job: Stage %d" % (CLIENT, number) for number in (1, 2, 3)),
        "%s: job: OPEN SESAME" % CLIENT,
        "job: running command: echo start %s >> %s/done; exit 3" % (CLIENT, knockd.directory),
        "job: command returned non-zero status code (3)",
        "%s: job: command timeout" % CLIENT,
        "job: running command: echo stop %s >> %s/done" % (CLIENT, knockd.directory),
        "%s: job: Stage 1" % CLIENT,
        "%s: job: sequence timeout (stage 1)" % CLIENT,
        "re-reading config file: %s/knockd.conf" % knockd.directory,
        "shutting down",
    ]
