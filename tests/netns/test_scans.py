# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A port scan opens nothing, whatever its order and speed; who knocks and touches a few other ports gets in."""

from __future__ import annotations

import random
import shutil
import socket
import struct
import subprocess
import threading
import time
from typing import Callable

import pytest

from ..ipv4 import summed
from .lab import CLIENT, CLIENT6, GUARD, KNOCKS, SERVER, SERVER6, SSH, STRANGER, STRANGER6, Daemon, Lab, eventually
from .packets import send, syns

LONG = SSH.format(open_timeout=600)
DOOR = "[%s]\nsequence = %s\nseq_timeout = 5\ntcpflags = syn\nopen_ports = 8022/tcp\n"
SHIPPED = DOOR % ("shipped", "7000,8000,9000")
ARTICLE = DOOR % ("article", "10001,10002,10003")
BACKWARDS = DOOR % ("backwards", "1003,1002,1001")
PAIR = DOOR % ("pair", "5000,4000")
EVERY_PORT = range(1, 65536)

BOTH = pytest.mark.parametrize(
    ("server", "scanner", "knocker"),
    [(SERVER, STRANGER, CLIENT), (SERVER6, STRANGER6, CLIENT6)],
    ids=["ipv4", "ipv6"],
)


def order(name: str) -> list[int]:
    ports = list(EVERY_PORT)
    if name == "down":
        ports.reverse()
    elif name != "up":
        random.Random(name).shuffle(ports)
    return ports


def thousand_doors() -> str:
    """Sequences of three knocks, no two with a port in common."""
    ports = random.Random(1000).sample(range(1024, 65536), 3000)
    return "".join(DOOR % ("door%d" % n, "%d,%d,%d" % tuple(ports[3 * n : 3 * n + 3])) for n in range(1000))


def sweep(lab: Lab, source: str, ports: list[int], per_second: float = 0) -> None:
    send(lab, syns(lab, ((source, port) for port in ports)), per_second)


def nothing_opened(lab: Lab, daemon: Daemon, scanner: str) -> None:
    """All of the sweep has been looked at, doors that waited included, and none opened."""
    time.sleep(1)  # a door waits for at most 0.8 s
    other = CLIENT6 if ":" in scanner else CLIENT
    lab.knock(*KNOCKS, to=SERVER6 if ":" in scanner else SERVER, source=other)
    daemon.await_log("%s: ssh: OPEN SESAME" % other)
    assert "%s: ssh: OPEN" % scanner not in daemon.log
    assert daemon.log.count("OPEN SESAME") == 1, daemon.log


@BOTH
@pytest.mark.parametrize("direction", ["up", "down", "random 1", "random 2", "random 3"])
def test_a_full_sweep_opens_nothing(lab: Lab, direction: str, server: str, scanner: str, knocker: str) -> None:
    daemon = lab.daemon(LONG + SHIPPED + ARTICLE + BACKWARDS + PAIR)
    sweep(lab, scanner, order(direction))
    nothing_opened(lab, daemon, scanner)
    assert "%s: backing off for 5 s: it scans" % scanner in daemon.log


@pytest.mark.parametrize("direction", ["up", "down", "random 4"])
def test_a_full_sweep_opens_none_of_a_thousand_doors(lab: Lab, direction: str) -> None:
    daemon = lab.daemon(LONG + thousand_doors())
    sweep(lab, STRANGER, order(direction))
    nothing_opened(lab, daemon, STRANGER)


@pytest.mark.parametrize("direction", ["up", "random 5"])
def test_a_sweep_during_a_flood_of_spoofed_first_knocks_opens_nothing(lab: Lab, direction: str) -> None:
    daemon = lab.daemon(LONG + SHIPPED + ARTICLE)
    spoofed = [
        ("198.19.%d.%d" % (n >> 8 & 255, n & 255), port) for n in range(30000) for port in (7000, 10001, int(KNOCKS[0]))
    ]
    flood = threading.Thread(target=send, args=(lab, syns(lab, spoofed)))
    flood.start()
    try:
        sweep(lab, STRANGER, order(direction))
    finally:
        flood.join()
    sweep(lab, STRANGER6, order(direction))  # and when it is over
    nothing_opened(lab, daemon, STRANGER)


def changed(length: int | None, options: bytes = b"") -> Callable[[bytes], bytes]:
    """A change to frames: the IP header says this length, or is right but for the checksum of IPv4."""

    def change(frame: bytes) -> bytes:
        ethernet, packet = frame[:14], frame[14:]
        if packet[0] == 0x60:
            return ethernet + packet[:4] + struct.pack("!H", length or 0) + packet[6:]
        first, total = 0x45 + len(options) // 4, len(packet) + len(options) if length is None else length
        packet = summed(struct.pack("!BxH", first, total) + packet[4:20] + options + packet[20:])
        return ethernet + (packet if length is not None else packet[:10] + bytes((packet[10] ^ 1,)) + packet[11:])

    return change


@pytest.mark.parametrize(
    ("scanner", "change"),
    [
        (STRANGER, changed(None)),
        (STRANGER, changed(None, options=b"\x01" * 4)),
        (STRANGER, changed(41)),
        (STRANGER, changed(20)),
        (STRANGER, changed(45, options=b"\x01" * 4)),
        (STRANGER6, changed(21)),
        (STRANGER6, changed(0)),
    ],
    ids=[
        *("ipv4 checksum", "ipv4 checksum, options", "ipv4 too long", "ipv4 too short", "ipv4 too long, options"),
        *("ipv6 too long", "ipv6 too short"),
    ],
)
def test_a_sweep_that_ip_drops_is_no_knock(lab: Lab, scanner: str, change: Callable[[bytes], bytes]) -> None:
    """Nobody could count its strays: netfilter never sees its ports."""
    daemon = lab.daemon(LONG + SHIPPED)
    send(lab, map(change, syns(lab, ((scanner, port) for port in order("up")))))
    nothing_opened(lab, daemon, scanner)
    assert "shipped: Stage" not in daemon.log


@pytest.mark.parametrize(
    ("source", "destination"), [("::1", SERVER6), ("ff02::5", SERVER6), (STRANGER6, "::1"), ("::1", "::1")]
)
def test_a_sweep_with_addresses_that_ipv6_drops_is_no_knock(lab: Lab, source: str, destination: str) -> None:
    daemon = lab.daemon(LONG + SHIPPED, interface="any")
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, address) for address in (source, destination))
    frames = syns(lab, ((STRANGER6, port) for port in order("up")))
    send(lab, (frame[:22] + addresses + frame[54:] for frame in frames))
    nothing_opened(lab, daemon, STRANGER6)
    assert "shipped: Stage" not in daemon.log


@pytest.mark.parametrize("per_second", [20, 300])
@pytest.mark.parametrize("step", [1, -1])
def test_a_slow_sweep_opens_nothing(lab: Lab, per_second: int, step: int) -> None:
    daemon = lab.daemon(LONG + ARTICLE + BACKWARDS)
    for middle in (10002, 1002):
        sweep(lab, STRANGER, list(range(middle - 20 * step, middle + 20 * step, step)), per_second)
    nothing_opened(lab, daemon, STRANGER)
    assert "backing off" in daemon.log


def test_c_knockd_opens_to_the_same_sweep(lab: Lab) -> None:
    """Bug 2 of C knockd, in the same place: what its package ships opens to one ascending sweep."""
    knockd = shutil.which("knockd") or pytest.skip("C knockd is not laid out: tools/c-knockd")
    log = lab.directory / "c-knockd.log"
    config = lab.directory / "c-knockd.conf"
    command = "[openSSH]\nsequence = 7000,8000,9000\nseq_timeout = 5\ncommand = true\ntcpflags = syn\n"
    config.write_text("[options]\nlogfile = %s\n%s" % (log, command))
    with subprocess.Popen(
        lab.server.command(knockd, "-i", "eth0", "-c", str(config), "-p", str(lab.directory / "pid")),
        stdout=subprocess.DEVNULL,
    ) as daemon:
        try:
            eventually(lambda: log.exists() and "listening" in log.read_text())
            sweep(lab, STRANGER, order("up"))
            eventually(lambda: "OPEN SESAME" in log.read_text())
        finally:
            daemon.terminate()


# Knockers.


@BOTH
def test_served_ports_and_a_few_strays_void_nothing(lab: Lab, server: str, scanner: str, knocker: str) -> None:
    daemon = lab.daemon(LONG)
    served = range(8000, 8020)
    for port in served:
        lab.sshd(port)
    for knock, stray in zip(KNOCKS, ("81", "444", "8443")):
        lab.knock(knock, to=server)
        for port in served:
            assert lab.is_open(server, port=port)
        lab.knock(stray, stray, to=server)
    daemon.await_log("OPEN SESAME")
    assert "backing off" not in daemon.log


@BOTH
def test_more_than_a_few_strays_void_the_knock_for_one_window(
    lab: Lab, server: str, scanner: str, knocker: str
) -> None:
    daemon = lab.daemon(LONG.replace("seq_timeout  = 5", "seq_timeout  = 2"))
    lab.knock(KNOCKS[0], to=server)
    daemon.await_log("Stage 1")
    lab.knock("81", "82", "83", "84", "85", "86", *KNOCKS[1:], to=server)
    daemon.await_log("backing off for 2 s: it scans (6 ports that nobody serves)")
    lab.knock(*KNOCKS, to=server)  # ignored
    other = STRANGER if server == SERVER else STRANGER6
    lab.knock(*KNOCKS, to=server, source=other)
    daemon.await_log("%s: ssh: OPEN SESAME" % other)
    assert "%s: ssh: OPEN SESAME" % knocker not in daemon.log

    def opens() -> bool:
        lab.knock(*KNOCKS, to=server)
        return "%s: ssh: OPEN SESAME" % knocker in daemon.log

    eventually(opens)
    assert daemon.log.count("backing off") == 1


def test_the_limit_can_be_set(lab: Lab) -> None:
    daemon = lab.daemon(LONG.replace("[options]", "[options]\nStrays = 7"))
    lab.knock(KNOCKS[0])
    daemon.await_log("Stage 1")
    lab.knock("81", "82", "83", "84", "85", "86", "87", *KNOCKS[1:])
    daemon.await_log("OPEN SESAME")


def test_with_classic_scans_strays_do_not_count(lab: Lab) -> None:
    daemon = lab.daemon(LONG.replace("[options]", "[options]\nClassic = scans") + SHIPPED)
    sweep(lab, STRANGER, order("up"))
    daemon.await_log("shipped: OPEN SESAME")
    assert "watched" not in lab.server.run("nft", "list", "table", "inet", "knockd")


def test_a_forger_of_strays_delays_me_once(lab: Lab) -> None:
    daemon = lab.daemon(LONG.replace("seq_timeout  = 5", "seq_timeout  = 3"))
    ports = iter(order("random 6"))

    lab.knock(KNOCKS[0])
    daemon.await_log("Stage 1")
    send(lab, syns(lab, ((CLIENT, next(ports)) for _ in range(100))))
    daemon.await_log("%s: backing off for 3 s" % CLIENT)
    send(lab, syns(lab, ((CLIENT, next(ports)) for _ in range(1000))))  # do not prolong it
    time.sleep(3)
    for port in KNOCKS:
        lab.knock(port)
        send(lab, syns(lab, ((CLIENT, next(ports)) for _ in range(100))))
    daemon.await_log("%s: ssh: OPEN SESAME" % CLIENT)
    assert daemon.log.count("backing off") == 1


def test_the_allowlist_is_never_delayed(lab: Lab) -> None:
    (lab.directory / "guard.conf").write_text(GUARD.format(allow=STRANGER))
    daemon = lab.daemon(LONG.replace("[options]", "[options]\nGuard = DIR/guard.conf"))
    sweep(lab, STRANGER, order("up"))
    lab.knock(*KNOCKS, source=STRANGER)
    daemon.await_log("%s: ssh: OPEN SESAME" % STRANGER)
    assert "backing off" not in daemon.log


def test_a_weak_door_opens_to_a_knock(lab: Lab) -> None:
    daemon = lab.daemon(SHIPPED + PAIR)
    lab.knock("7000", "8000", "9000")
    lab.knock("5000", "4000", source=STRANGER)
    daemon.await_log("%s: shipped: OPEN SESAME" % CLIENT, "%s: pair: OPEN SESAME" % STRANGER)


def test_udp_is_swept_in_vain_as_well(lab: Lab) -> None:
    daemon = lab.daemon(LONG + DOOR % ("udp", "7000:udp,8000:udp,9000:udp"))
    lab.knock(*("%d/udp" % port for port in range(6900, 9100)), source=STRANGER)
    nothing_opened(lab, daemon, STRANGER)


# Command doors.

COMMANDS = "[options]\n[weak]\nsequence = 7000,8000,9000\ntcpflags = syn\ncommand = true\n"
STRONG = "[strong]\nsequence = %s\ntcpflags = syn\ncommand = true\n" % ",".join(KNOCKS)


def test_command_doors_are_as_safe(lab: Lab) -> None:
    daemon = lab.daemon(COMMANDS + STRONG)
    sweep(lab, STRANGER, order("up"))
    time.sleep(1)
    lab.knock("7000", "8000", "9000")
    daemon.await_log("%s: weak: OPEN SESAME" % CLIENT)
    assert daemon.log.count("OPEN SESAME") == 1


def test_where_scans_cannot_be_told_weak_command_doors_stay_shut(lab: Lab) -> None:
    lab.nft("table inet knockd {}")  # somebody else's: ours cannot be made
    daemon = lab.daemon(COMMANDS + STRONG)
    daemon.await_log("cannot tell scans from knocks")
    sweep(lab, STRANGER, order("up"))
    lab.knock("7000", "8000", "9000")
    lab.knock(*KNOCKS)
    daemon.await_log("%s: strong: OPEN SESAME" % CLIENT, "weak: stays shut")
    assert daemon.log.count("OPEN SESAME") == 1


def test_a_one_time_knock_is_no_stray(lab: Lab) -> None:
    (lab.directory / "sequences").write_text(" 10021,10023,10022\n 10031,10033,10032\n")
    once = "[options]\nStrays = 0\n[once]\none_time_sequences = DIR/sequences\ntcpflags = syn\nopen_ports = 80/tcp\n"
    daemon = lab.daemon(once)
    lab.knock("10021", "10023", "10022")
    daemon.await_log("OPEN SESAME")
    lab.knock("10031", "10033", "10032")
    eventually(lambda: daemon.log.count("OPEN SESAME") == 2, daemon.log)
