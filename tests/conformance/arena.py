# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where traces are played: many cables to one server, on each a C knockd of its own, on all of them two of ours.

All daemons get the very same packets. C knockd is alone on each cable, because there the sources disturb each other
(number 1 of docs/compatibility.md); ours, once as it is and once with all that is classic, have to keep them apart.
A socket of our own beside them learns the order and the kernel's time stamps, the same that C knockd reckons with.
"""

from __future__ import annotations

import heapq
import json
import re
import secrets
import socket
import struct
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from knockd.packet import TCP, Packet, parse

from ..netns.lab import Daemon, Namespace, eventually, run
from .knockd_c import Door, Told
from .traces import TARGET, Step, Trace

LANES = 50
PACE = 150
"""Packets a second over all: ours logs at most 200 stages and time-outs a second."""
BETWEEN = 3.3
"""Seconds between two traces of a cable: longer than any window."""
END = Door("end", ((TCP, 19999),), 2)
"""Says that everything before it has been taken in."""

_LINE = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d\] (\S+): (\w+): (Stage \d+|OPEN SESAME|sequence timeout \(stage \d+\))"
)
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33  # asm-generic/socket.h


class Seen(NamedTuple):
    """A packet as it came in, in seconds since 1970."""

    at: float
    packet: Packet


class Played(NamedTuple):
    """A trace that was played: where, and by whom."""

    trace: Trace
    lane: int
    sources: tuple[bytes, ...]


class Heard(NamedTuple):
    """What a daemon says about each source, in order, and which commands it has run for it."""

    told: dict[bytes, list[Told]]
    done: dict[bytes, list[str]]
    whole: bool
    """Whether all stages are in the log."""


class Arena:
    """Two namespaces full of cables, and the daemons."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._namespaces: list[Namespace] = []
        self._rivals: list[subprocess.Popen[bytes]] = []
        self._daemons: list[Daemon] = []
        self._sockets: list[socket.socket] = []
        self._used = [0] * LANES
        self.seen: list[list[Seen]] = [[] for _ in range(LANES)]

    def build(self, config: str) -> None:
        """Lays the cables and starts the daemons with these doors."""
        tag = secrets.token_hex(4)
        for side in "cs":
            self._namespaces.append(Namespace("conform-%s-%s" % (side, tag)))
        client, server = self._namespaces
        for namespace in self._namespaces:
            namespace.run(
                "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.router_solicitations=0"
            )
        run("ip", "-n", server.name, "-batch", "-", text="".join(map(self._cable, range(LANES))))
        up = "".join("link set lane%d up\n" % lane for lane in range(LANES))
        run("ip", "-n", client.name, "-batch", "-", text=up)
        # What the server answers would only look for sources that nobody has.
        server.run(
            "nft",
            "-f",
            "-",
            text="table inet mute { chain output { type filter hook output priority 0; policy drop; }; }",
        )
        links = json.loads(run("ip", "-n", server.name, "-j", "address"))
        self._macs = {link["ifname"]: bytes.fromhex(link["address"].replace(":", "")) for link in links}
        self.local = frozenset(
            socket.inet_pton(socket.AF_INET6 if ":" in entry["local"] else socket.AF_INET, entry["local"])
            for link in links
            if link["ifname"] != "lo"
            for entry in link["addr_info"]
        )
        with server:
            self._wire = self._keep(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)))
        self._wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._wire.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._wire.setblocking(False)
        self._senders = []
        for lane in range(LANES):
            with client:
                sender = self._keep(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            sender.bind(("lane%d" % lane, 0))
            self._senders.append(sender)
        self._start(config + "\n[end]\nsequence = 19999\nstart_command = true\n")

    def _cable(self, lane: int) -> str:
        name = "lane%d" % lane
        lines = (
            "link add %s type veth peer name %s netns %s" % (name, name, self._namespaces[0].name),
            "link set %s up" % name,
            "address add %s/22 dev %s" % (address(4, lane, 1), name),
            "address add %s/64 dev %s nodad" % (address(6, lane, 1), name),
        )
        return "".join(line + "\n" for line in lines)

    def _keep(self, made: socket.socket) -> socket.socket:
        self._sockets.append(made)
        return made

    def _start(self, config: str) -> None:
        _client, server = self._namespaces
        for lane in range(LANES):
            directory = self._directory / ("c%d" % lane)
            directory.mkdir()
            (directory / "knockd.conf").write_text(config.replace("DIR", str(directory)))
            command = (
                "knockd",
                "-c",
                str(directory / "knockd.conf"),
                "-i",
                "lane%d" % lane,
                "-g",
                str(directory / "log"),
            )
            with open(directory / "output", "wb") as output:
                self._rivals.append(subprocess.Popen(server.command(*command), stdout=output, stderr=subprocess.STDOUT))
        for name, options in (("ours", ""), ("classic", "\n    Classic = scans, repeats, doors, pairs")):
            directory = self._directory / name
            directory.mkdir()
            arguments = ("-i", ",".join("lane%d" % lane for lane in range(LANES)), "-g", str(directory / "log"))
            self._daemons.append(Daemon(server, directory, arguments, "[options]%s\n%s" % (options, config)))
        for daemon in self._daemons:
            daemon.await_ready()
        for lane, rival in enumerate(self._rivals):
            eventually(lambda: rival.poll() is not None or "starting up" in self._log("c%d" % lane))  # noqa: B023
            assert rival.poll() is None, (self._directory / ("c%d" % lane) / "output").read_text()

    def remove(self) -> None:
        for rival in self._rivals:
            rival.kill()
            rival.wait()
        for daemon in self._daemons:
            daemon.remove()
        for made in self._sockets:
            made.close()
        for namespace in self._namespaces:
            namespace.remove()

    # Playing.

    def play(self, traces: list[Trace]) -> list[Played]:
        """Sends the traces, side by side on all cables, until every daemon has taken in all of them."""
        played = []
        agenda: list[tuple[float, int, int, bytes]] = []
        begin = time.monotonic() + 0.1
        free = [begin] * LANES
        for number, trace in enumerate(traces):
            # No sooner than the pace allows, on the cable that has been idle for longest.
            lane = min(range(LANES), key=free.__getitem__)
            at = max(free[lane], begin + sum(len(other.steps) for other in traces[:number]) / PACE)
            sources = []
            for family in trace.families:
                sources.append(packed(address(family, lane, 10 + self._used[lane])))
                self._used[lane] += 1
            for step in trace.steps:
                at += step.pause
                heapq.heappush(agenda, (at, len(agenda), lane, self._frame(lane, sources[step.source], step)))
            free[lane] = at + BETWEEN
            played.append(Played(trace, lane, tuple(sources)))
        last = max(free)
        ending = []
        for lane in range(LANES):
            ending.append(packed(address(4, lane, 10 + self._used[lane])))
            self._used[lane] += 1
            frame = self._frame(lane, ending[lane], Step(0, 0, *END.sequence[0], 2))
            heapq.heappush(agenda, (last, len(agenda), lane, frame))
        sent = len(agenda) + sum(map(len, self.seen))
        while agenda:
            due, _number, lane, frame = heapq.heappop(agenda)
            while (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            self._senders[lane].send(frame)
            self._listen()
        eventually(lambda: self._listen() == sent, "all packets come through")
        for lane, source in enumerate(ending):
            for name in ("c%d" % lane, "ours", "classic"):
                words = "%s: end: OPEN SESAME" % text(source)
                eventually(lambda: words in self._log(name), "%s takes in everything" % name)  # noqa: B023
        time.sleep(1.5)  # the last stop commands
        return played

    def _frame(self, lane: int, source: bytes, step: Step) -> bytes:
        if len(source) == 16:
            destination = packed(address(6, lane, 1))
        else:
            destination = packed(TARGET if step.to_target else address(4, lane, 1))
        if step.protocol == TCP:
            body = struct.pack("!HHIIBBHHH", 40000, step.port, 1, 0, 5 << 4, step.flags, 1024, 0, 0)
        else:
            body = struct.pack("!HHHHx", 40000, step.port, 9, 0)
        # Pseudo header (RFC 9293, 3.1 and RFC 768): the same sum for both families.
        total = checksum(source + destination + struct.pack("!II", len(body), step.protocol) + body)
        where = 16 if step.protocol == TCP else 6
        body = body[:where] + struct.pack("!H", total or 0xFFFF) + body[where + 2 :]
        if len(source) == 16:
            header = struct.pack("!IHBB16s16s", 6 << 28, len(body), step.protocol, 64, source, destination)
        else:
            header = struct.pack("!BBHIBBH4s4s", 0x45, 0, 20 + len(body), 0, 64, step.protocol, 0, source, destination)
            header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        kind = b"\x86\xdd" if len(source) == 16 else b"\x08\x00"
        return self._macs["lane%d" % lane] + bytes(6) + kind + header + body

    def _listen(self) -> int:
        """How many packets have come until now."""
        while True:
            try:
                data, ancillary, _flags, (name, _kind, way, *_) = self._wire.recvmsg(2048, 256)
            except BlockingIOError:
                return sum(map(len, self.seen))
            packet = parse(data)
            # Neither what leaves nor what the kernels tell each other.
            if way != socket.PACKET_HOST or packet is None or not name.startswith("lane"):
                continue
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            self.seen[int(name[4:])].append(Seen(seconds + nanoseconds / 1e9, packet))

    # Listening.

    def heard(self, name: str) -> Heard:
        """What `c0`, `c1`, ..., `ours` or `classic` has said and done until now."""
        told: dict[bytes, list[Told]] = defaultdict(list)
        log = self._log(name)
        for line in log.splitlines():
            match = _LINE.fullmatch(line)
            if match and match[2] != "end":
                told[packed(match[1])].append(Told(match[2], match[3]))
        done: dict[bytes, list[str]] = defaultdict(list)
        path = self._directory / name / "done"
        for line in path.read_text().splitlines() if path.exists() else ():
            word, source, door = line.split()
            done[packed(source)].append("%s %s" % (word, door))
        assert "Traceback" not in log
        return Heard(told, done, "not logged" not in log)

    def _log(self, name: str) -> str:
        path = self._directory / name / "log"
        return path.read_text() if path.exists() else ""


def address(family: int, lane: int, host: int) -> str:
    """An address on a cable."""
    if family == 6:
        return "fd00:5e5a:0:%x::%x" % (lane + 1, host)
    assert host < 1023
    return "198.%d.%d.%d" % (18 + lane // 64, lane % 64 * 4 + host // 256, host % 256)


def packed(address: str) -> bytes:
    """An address as it is in a packet."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def text(address: bytes) -> str:
    """An address as people write it."""
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)


def checksum(data: bytes) -> int:
    """The checksum of RFC 1071."""
    total = sum(struct.unpack("!%dH" % (len(data + b"\0") // 2), data.ljust(len(data) + len(data) % 2, b"\0")))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
