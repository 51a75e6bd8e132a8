# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets from real interfaces: each comes once and in order, whatever happens to the sockets meanwhile."""

from __future__ import annotations

import re
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator

import pytest

from .lab import CLIENT, CLIENT6, KNOCKS, PACKAGE, PATIENCE, SERVER, SERVER6, SSH, Lab, eventually, sleeps, stopped

sys.path.insert(0, str(PACKAGE))

from knockd import capture, tap
from knockd.links import Links
from knockd.model import Door
from knockd.packet import UDP, Packet
from knockd.sequence import Knock

FIRST, LAST = 20000, 30000
LONG = SSH.format(open_timeout=600)


def doors(ports: Iterable[int]) -> list[Door]:
    return [Door("d", tuple(Knock(port, "udp") for port in ports))]


EVERY = doors(range(FIRST, LAST))


class Listener:
    """A Capture in the server's namespace, and what it has heard."""

    def __init__(self, lab: Lab, wanted: list[Door], *names: str) -> None:
        self._server = lab.server
        self.heard: list[Packet] = []
        self.said: list[str] = []
        self.idle = 0
        """Turns since something was ready."""
        self.kinds: list[bool] = []
        """For each turn, whether memory was shared with the kernel."""
        self._selector = selectors.DefaultSelector()
        with lab.server:
            self._links = Links()
            self.capture = capture.Capture(self._selector, wanted, self._hear, self.said.append)
            self.capture.follow(names, self._links)

    def _hear(self, packets: Iterable[Packet]) -> None:
        self.kinds.append("socket:" in Path("/proc/self/maps").read_text())
        self.heard += [Packet(*packet) for packet in packets]

    def turn(self) -> None:
        """What the daemon does in one turn."""
        with self._server:
            deadline = self.capture.next_deadline()
            patience = 0.05 if deadline is None else min(0.05, max(0.0, deadline - time.monotonic()))
            ready = self._selector.select(patience)
            self.idle = 0 if ready else self.idle + 1
            for key, _events in ready:
                key.data(key.fileobj)
            self.capture.on_time(time.monotonic())

    def until(self, condition: Callable[[], object], claim: str) -> None:
        """Turns without a rest, as the daemon does."""
        deadline = time.monotonic() + PATIENCE
        self.turn()
        while not condition():
            assert time.monotonic() < deadline, "never: %s" % claim
            self.turn()

    def set_doors(self, wanted: list[Door]) -> None:
        with self._server:
            self.capture.set_doors(wanted)

    @property
    def ports(self) -> list[int]:
        return [packet.port for packet in self.heard]

    def close(self) -> None:
        self.capture.close()
        self._links.close()
        self._selector.close()


@pytest.fixture
def listen(lab: Lab) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(wanted: list[Door], *names: str) -> Listener:
        made.append(Listener(lab, wanted, *names))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


STREAM = (
    """
import socket, sys, time
first, last, step, times, pause = map(float, sys.argv[1:])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _turn in range(int(times)):
    for count, port in enumerate(range(int(first), int(last), int(step))):
        sender.sendto(b"knock", ("%s", port))
        if not count %% 64:
            time.sleep(pause)
"""
    % SERVER
)


def stream(lab: Lab, ports: range, times: int, pause: float) -> subprocess.Popen[bytes]:
    """Datagrams from a process of their own: a thread would wait while this one changes sockets."""
    numbers = (ports.start, ports.stop, ports.step, times, pause)
    return subprocess.Popen(lab.client.command(sys.executable, "-c", STREAM, *map(str, numbers)))


def send(lab: Lab, ports: Iterable[int], to: str = SERVER, options: bytes = b"") -> None:
    """One datagram to each port, in order."""
    with lab.client:
        sender = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        if options:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        for port in ports:
            sender.sendto(b"knock", (to, port))


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that changes to and fro between a plain socket and a ring, all the time."""
    monkeypatch.setattr(tap, "BATCH", 8)
    monkeypatch.setattr(capture, "LOADED", 1)
    monkeypatch.setattr(capture, "LULL", 0.02)
    monkeypatch.setattr(capture, "QUIET", 1 << 40)


@pytest.fixture
def small_optmem(lab: Lab) -> Callable[[int], None]:
    def limit(size: int) -> None:
        path = "/proc/sys/net/core/optmem_max"
        done = subprocess.run(lab.server.command("sh", "-c", "echo %d >%s" % (size, path)), capture_output=True)
        if done.returncode and int(Path(path).read_text()) > size:
            pytest.skip("net.core.optmem_max is not a namespace's own before Linux 6.8")

    return limit


# Each once, and in order.


def test_no_packet_is_lost_or_doubled_when_a_ring_takes_over_and_goes(
    lab: Lab, listen: Callable[..., Listener], restless: None
) -> None:
    listener = listen(EVERY, "eth0")
    sent = [*range(FIRST, LAST)] * 4
    with stream(lab, range(FIRST, LAST), 4, 0.002) as sender:
        listener.until(lambda: sender.poll() is not None and listener.idle > 20, "all packets arrive")
    assert len(listener.heard) == len(sent)
    assert listener.ports == sent
    assert listener.capture.drops() == 0
    changes = sum(one != next for one, next in zip(listener.kinds, listener.kinds[1:]))
    assert changes >= 2


def test_no_packet_is_lost_or_doubled_when_a_filter_needs_a_new_socket(
    lab: Lab,
    listen: Callable[..., Listener],
    small_optmem: Callable[[int], None],
) -> None:
    small_optmem(20480)  # Debian 12's
    common = [*range(FIRST, LAST, 20)]  # 500
    one, other = ([*common, *range(FIRST + step, LAST, 20)] for step in (5, 10))  # 1000
    listener = listen(doors(one), "eth0")
    sent = common * 200
    with stream(lab, range(FIRST, LAST, 20), 200, 0.0005) as sender:
        while sender.poll() is None:
            for wanted in (other, one):
                listener.set_doors(doors(wanted))
                for _turn in range(3):
                    listener.turn()
    listener.until(lambda: len(listener.heard) >= len(sent), "all packets arrive")
    assert listener.ports == sent
    assert listener.said == []
    # And a thousand ports are told apart exactly.
    del listener.heard[:]
    listener.set_doors(doors(other))
    send(lab, range(FIRST, LAST))
    listener.until(lambda: len(listener.heard) >= len(other), "all packets arrive")
    assert listener.ports == sorted(other)


def test_a_kernel_without_room_for_the_filter_gets_a_coarse_one(
    lab: Lab, listen: Callable[..., Listener], small_optmem: Callable[[int], None]
) -> None:
    small_optmem(4096)
    wanted = [*range(FIRST, LAST, 20)]
    listener = listen(doors(wanted), "eth0")
    assert len(listener.said) == 1
    assert "net.core.optmem_max" in listener.said[0]
    send(lab, wanted)
    send(lab, [LAST + 1, wanted[0]])
    listener.until(lambda: listener.ports.count(wanted[0]) == 2, "all packets arrive")
    assert listener.ports == [*wanted, wanted[0]]
    listener.set_doors(doors([FIRST]))
    listener.turn()
    listener.set_doors(doors(wanted))
    listener.until(lambda: len(listener.said) == 2, "it is said again")


def test_both_versions_are_heard(lab: Lab, listen: Callable[..., Listener]) -> None:
    listener = listen(EVERY, "lo", "eth0")
    for to in (SERVER, SERVER6):
        send(lab, [FIRST, FIRST + 1], to)
    listener.until(lambda: len(listener.heard) >= 4, "all packets arrive")
    assert {packet.source for packet in listener.heard} == {
        socket.inet_aton(CLIENT),
        socket.inet_pton(socket.AF_INET6, CLIENT6),
    }


@pytest.mark.parametrize(
    ("to", "source", "options"),
    [
        (SERVER, socket.inet_aton(CLIENT), (b"", b"\x01" * 4, b"\x01" * 40)),
        (SERVER6, socket.inet_pton(socket.AF_INET6, CLIENT6), (b"",)),
    ],
)
def test_a_ring_reads_what_a_plain_socket_reads(
    lab: Lab, listen: Callable[..., Listener], restless: None, to: str, source: bytes, options: tuple[bytes, ...]
) -> None:
    listener = listen(EVERY, "eth0")
    while True not in listener.kinds:
        send(lab, [FIRST] * 50, to)
        listener.turn()
    for some in options:
        send(lab, range(FIRST + 1, FIRST + 101), to, some)
    listener.until(lambda: listener.ports.count(FIRST + 100) == len(options), "all packets arrive")
    assert {packet[:2] for packet in listener.heard} == {(UDP, source)}
    assert [port for port in listener.ports if port != FIRST] == [*range(FIRST + 1, FIRST + 101)] * len(options)


# Too much.


def test_a_flood_on_one_interface_does_not_hold_up_another(lab: Lab, listen: Callable[..., Listener]) -> None:
    listener = listen(EVERY, "lo", "eth0")
    send(lab, [FIRST] * 8 * tap.BATCH)
    with lab.server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
        local.sendto(b"knock", ("127.0.0.1", LAST - 1))
    listener.until(lambda: LAST - 1 in listener.ports, "the other interface has its turn")
    assert listener.ports.index(LAST - 1) <= 2 * tap.BATCH


@pytest.mark.parametrize("ring", [False, True])
def test_what_does_not_fit_is_counted(
    lab: Lab, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch, ring: bool
) -> None:
    monkeypatch.setattr(tap, "RECEIVE_BUFFER", 1 << 20)
    monkeypatch.setattr(capture, "LULL", 1000.0)
    listener = listen(EVERY, "eth0")
    sent = 0
    if ring:
        monkeypatch.setattr(capture, "LOADED", 1)
        monkeypatch.setattr(tap, "BATCH", 8)
        send(lab, [FIRST] * 500)
        sent += 500
        listener.until(lambda: any(listener.kinds), "a ring")
    send(lab, [FIRST] * (tap.FRAMES + 1000))
    sent += tap.FRAMES + 1000
    listener.until(lambda: len(listener.heard) + listener.capture.drops() >= sent, "all are heard or counted")
    assert len(listener.heard) + listener.capture.drops() == sent
    assert listener.capture.drops() >= 1000 - 500
    assert listener.capture.drops() == listener.capture.drops()


def test_a_knock_opens_through_a_ring_which_goes_when_it_is_quiet(walled: Lab) -> None:
    daemon = walled.daemon(LONG.replace("31002:tcp", "31002:tcp,21001:udp"))

    def shared() -> bool:
        return "socket:" in Path("/proc/%d/maps" % daemon.pid).read_text()

    assert not shared()
    with stopped(daemon):
        send(walled, [21001] * (capture.LOADED + 1) * tap.BATCH)
    eventually(shared, "a ring under load")
    walled.knock(*KNOCKS, "21001/udp")
    walled.opens()
    eventually(lambda: not shared(), "the ring is given back")
    assert walled.is_open()
    eventually(lambda: sleeps(daemon.pid), "no wake-ups")


def test_ten_thousand_doors(walled: Lab) -> None:
    config = [LONG]
    for number in range(10_000):
        first = 1024 + number % 10_000
        config.append(
            "[d%d]\nsequence = %d,%d,%d\ntcpflags = syn\nopen_ports = 23/tcp\n"
            % (number, first, first + 10_000, first + 20_000)
        )
    daemon = walled.daemon("".join(config))
    walled.knock("1030", "11030", "21030")
    daemon.await_log("d6: OPEN SESAME")
    daemon.reload()
    walled.knock("1031", "11031", "21031")
    daemon.await_log("d7: OPEN SESAME")
    assert not re.search("keeping the old|Traceback", daemon.log)
