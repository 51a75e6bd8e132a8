# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is fuzzed, and what has to hold whatever comes: each case takes any bytes and says how much it has tried.

Hypothesis (test_fuzz.py) and atheris (campaign.py) feed the same cases. Where the kernel can be asked it is: the packet
filter runs in the kernel, on a pair of unix sockets, which needs no root.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import selectors
import socket
import struct
from ipaddress import ip_address
from pathlib import Path

from knockd import bpf, console, elements, kernel, netlink, one_time
from knockd.config import ConfigError, parse, parse_guard
from knockd.control import Control, ControlError
from knockd.links import Links
from knockd.model import Door, Guard, Opened, Settings, Stage, TcpFlags
from knockd.packet import TCP, UDP, Packet
from knockd.packet import parse as parse_packet
from knockd.sequence import Knock, parse_sequence
from knockd.strays import BOUND as STRAYS_BOUND
from knockd.strays import Strays
from knockd.tracker import Tracker

from ..ipv4 import header_length, is_taken_up, summed
from .source import Source

# Packets

FIN, SYN, ACK = 1, 2, 16
ME, TARGET = ip_address("198.18.0.1").packed, ip_address("198.18.0.99").packed
ME_6 = ip_address("fd00:5e5a::1").packed
KNOCKERS = [ip_address("198.18.0.%d" % number).packed for number in range(2, 6)]
KNOCKERS_6 = [ip_address("fd00:5e5a::%d" % number).packed for number in range(2, 4)]


def _door(name: str, sequence: str, **rest: object) -> Door:
    return Door(name, parse_sequence(sequence), **{"seq_timeout": 5.0, **rest})  # type: ignore[arg-type]


SSH = _door("ssh", "20113,11873,28391", tcpflags=TcpFlags(SYN | ACK, SYN))
DOORS = [
    SSH,
    _door("mixed", "20113,11873:udp,9001", tcpflags=TcpFlags(SYN | ACK, SYN)),
    _door("same beginning", "20113,11873,9003", tcpflags=TcpFlags(SYN | ACK, SYN)),
    _door("repeats", "9001,9001,9002,9001"),
    _door("udp", "9001:udp,9002:udp", seq_timeout=1.0),
    _door("bell", "9009"),
    _door("wake", "9003,9002,9001", target=ip_address(TARGET)),
    _door("ack", "28391,9002", tcpflags=TcpFlags(ACK, ACK), seq_timeout=60.0),
    Door("used up", ()),
]
OTHER_DOORS = [SSH, *DOORS[3:6], _door("new", "11873,20113")]
PORTS = sorted({knock for door in DOORS for knock in door.sequence})

SO_ATTACH_FILTER = 26  # asm-generic/socket.h


class Filter:
    """The daemon's filter program for one IP version, run by the kernel."""

    def __init__(self, doors: list[Door], version: int) -> None:
        self._version = version
        self._writer, self._reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reader.setblocking(False)
        self.use(doors)

    def use(self, doors: list[Door]) -> None:
        code = bpf.pack(bpf.program(doors, self._version))
        buffer = ctypes.create_string_buffer(code, len(code))
        filter_program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
        self._reader.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_program)

    def passes(self, data: bytes) -> bytes | None:
        """What the daemon would get of this packet; None if nothing."""
        self._writer.send(data)
        try:
            return self._reader.recv(65536)
        except BlockingIOError:
            return None


def _key(knock: Knock) -> tuple[int, int]:
    return TCP if knock.protocol == "tcp" else UDP, knock.port


class Host:
    """A filter and a tracker that live through all packets: what one input leaves behind, the next one meets."""

    BOUND = 512
    HISTORY = 20_000

    def __init__(self) -> None:
        self._take(DOORS)
        self.now = 1000.0
        self._filters = {version: Filter(self.doors, version) for version in (4, 6)}
        self._legitimate = 0
        self._begin()

    def _begin(self) -> None:
        self.tracker = Tracker(self.doors, self.BOUND)
        self.tracker.local = frozenset((ME, ME_6))
        self.strays = Strays(lambda source: source == KNOCKERS[0])
        self.strays.limit = 5
        self.strays.replace(self.doors)
        self._history: dict[bytes, list[tuple[float, Packet]]] = {}

    def _take(self, doors: list[Door]) -> None:
        self.doors = doors
        self._knocks = {_key(knock) for door in doors for knock in door.sequence}

    def packets(self, data: bytes) -> int:
        """Packets as an attacker would choose them, then a legitimate knock; how many these were."""
        source = Source(data)
        sent = 0
        if sum(map(len, self._history.values())) > self.HISTORY:
            self._begin()  # the history is ours, and would grow without bound
        aims = dict.fromkeys(KNOCKERS + KNOCKERS_6, (self.doors[0], 0))
        while source:
            if source.once_in(16):
                self._time_passes(source)
            elif source.once_in(16):
                self.receive(repair(source, source.take(source.number(120))))
                sent += 1
            elif source.once_in(16):
                self._stray(source)
                sent += 1
            elif source.once_in(32):  # as the daemon does when a flood begins and ends
                self.tracker.tells_first = not self.tracker.tells_first
            else:
                knocker = source.choice(KNOCKERS) if source.number(3) else source.choice(KNOCKERS_6)
                door, stage = aims[knocker]
                if source.once_in(4) or stage >= len(door.sequence):
                    door, stage = source.choice([door for door in self.doors if door.sequence]), 0
                knock = source.choice(PORTS) if source.once_in(8) else door.sequence[stage]
                aims[knocker] = (door, stage + 1)
                sender = knocker
                if source.once_in(8):  # a flood of them is spoofed
                    sender = b"\xc6\x12" + source.take(2).ljust(2, b"\0")
                packet = build(source, sender, door, knock)
                self.receive(repair(source, source.damage(packet)) if source.once_in(4) else packet)
                sent += 1
        return sent + self._legitimate_knock()

    def receive(self, data: bytes) -> list[str]:
        """One packet from the wire to the tracker; the names of the doors that it opens."""
        passed = self._filters[6 if data[0] >> 4 == 6 else 4].passes(data) if data else None
        packet = parse_packet(data)
        if packet and (packet.protocol, packet.port) in self._knocks and is_taken_up(data):
            assert passed is not None, "the filter drops a knock: %s" % data.hex()
        if passed is None:
            return []
        packet = parse_packet(passed)
        if packet is None and data[0] & 15 > 5 and not is_taken_up(data):
            return []  # only the filter's reader sums a header with options
        assert packet is not None, "the filter lets pass what is no knock: %s" % data.hex()
        assert is_taken_up(data), "what IP drops, and the count of strays misses, is a knock: %s" % data.hex()
        if self.strays.backs_off(self.now, packet.source):
            return []
        history = self._history.setdefault(packet.source, [])
        history.append((self.now, packet))
        opened = []
        source, destination = packet.source, packet.destination
        for event in self.tracker.observe(self.now, source, destination, packet.protocol, packet.port, packet.flags):
            assert event.source == source
            if isinstance(event, Stage):
                self.strays.progress(self.now, source, event.door, event.number)
            if isinstance(event, Opened):
                opened.append(event.door.name)
                assert 0 <= self.strays.settling(self.now, source, event.door) < 60
                self.strays.opened(source, event.door)
                assert self._earned(event.door, history), "%s opens without its sequence" % event.door.name
        assert len(self.tracker) <= self.BOUND
        return opened

    def _earned(self, door: Door, history: list[tuple[float, Packet]]) -> bool:
        """Whether the packets of one source hold the door's knocks in order, within its window, up to the last one."""
        missing = list(door.sequence)
        destinations = (door.target.packed,) if door.target else (ME, ME_6)
        for when, packet in reversed(history):
            if (
                (packet.protocol, packet.port) == _key(missing[-1])
                and packet.destination in destinations
                and (packet.protocol == UDP or packet.flags & door.tcpflags.mask == door.tcpflags.value)
            ):
                missing.pop()
                if not missing:
                    return self.now - when < door.seq_timeout
        return False

    def _stray(self, source: Source) -> None:
        """A packet to a port that nobody serves, as the kernel tells of it."""
        knocker = source.choice(KNOCKERS)
        if self.strays.stray(self.now, knocker, TCP, 1 + source.number(65535)):
            self.strays.back_off(self.now, knocker)
            self.tracker.drop(knocker)
        begin, end = self.strays.changes(self.now)
        assert len(begin) + len(end) <= 8 * self.HISTORY
        assert all(seconds > 0 for _source, seconds in begin), "the kernel would take 0 for ever"
        assert len(self.strays._watched) <= STRAYS_BOUND

    def _time_passes(self, source: Source) -> None:
        self.now += source.choice((0.0, 0.01, 0.5, 1.0, 2.5, 5.0, 60.0))
        what = source.number(8)
        if what < 4:
            self.tracker.expire(self.now)
            due = self.tracker.next_deadline()
            while due is not None and due <= self.now:  # it tells in slices
                self.tracker.expire(self.now)
                following = self.tracker.next_deadline()
                assert not following or following >= due  # 0 is at once
                due = following
        elif what == 4:
            self._take(OTHER_DOORS if self.doors is DOORS else DOORS)
            for one in self._filters.values():
                one.use(self.doors)
            self.tracker.replace(self.doors)
            self.strays.replace(self.doors)
        elif what == 5:
            self.tracker.local = frozenset((ME, ME_6)) if source.number(4) else frozenset()

    def _legitimate_knock(self) -> int:
        """Somebody who has never been here, and opens."""
        self.tracker.local = frozenset((ME, ME_6))
        self._legitimate = (self._legitimate + 1) % 65536
        knocker = b"\xc6\x13" + self._legitimate.to_bytes(2, "big")
        opened = [name for knock in SSH.sequence for name in self.receive(ip4(knocker, ME, tcp(knock.port, SYN)))]
        assert "ssh" in opened, "a legitimate knock is lost"
        return len(SSH.sequence)


def build(source: Source, sender: bytes, door: Door, knock: Knock) -> bytes:
    """The packet that this knock would be, from an IPv4 or IPv6 address, with what is optional there as it comes."""
    mask, value = door.tcpflags
    flags = source.number(256) if source.once_in(8) else value | (0 if mask & SYN else SYN)
    segment = tcp(knock.port, flags) if knock.protocol == "tcp" else udp(knock.port)
    if len(sender) == 16:
        return struct.pack("!IHBB", 6 << 28, len(segment), segment_kind(knock), 64) + sender + ME_6 + segment
    destination = door.target.packed if door.target else ME
    if source.once_in(8):
        return ip4(sender, destination, segment, segment_kind(knock), source.number(11), source.number(65536))
    return ip4(sender, destination, segment, segment_kind(knock))


def segment_kind(knock: Knock) -> int:
    return TCP if knock.protocol == "tcp" else UDP


def tcp(port: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, flags, 64240, 0, 0)


def udp(port: int) -> bytes:
    return struct.pack("!HHHH", 40000, port, 9, 0) + b"x"


def ip4(
    sender: bytes, destination: bytes, segment: bytes, protocol: int = TCP, options: int = 0, fragment: int = 0
) -> bytes:
    """An IPv4 packet with `options` words of options and the given fragment field (RFC 791, 3.1)."""
    length = 20 + 4 * options + len(segment)
    header = struct.pack("!BBHHHBBH", 0x45 + options, 0, length, 7, fragment, 64, protocol, 0)
    return summed(header + sender + destination + b"\x01" * 4 * options + segment)


def repair(source: Source, packet: bytes) -> bytes:
    """The packet with, most often, the length and the checksum that IP looks for."""
    if not packet or not 20 <= header_length(packet) <= len(packet):
        return packet
    version, length = packet[0] >> 4, len(packet)
    if not source.once_in(4):
        place, length = (2, length) if version == 4 else (4, length - 40)
        packet = packet[:place] + struct.pack("!H", length) + packet[place + 2 :]
    return packet if version != 4 or source.once_in(4) else summed(packet)


# Configurations

SECRET = ("20113", "11873", "28391")
_SPELLINGS = [
    *("20113:tcp,11873:udp,28391:tcp", "20113,11873,28391", "20113/tcp, 11873/udp , 28391"),
    *("20113 11873 28391", "20113;11873;28391", "20113:tcp 11873:udp 28391:tcp", "20113,11873,28391,70000"),
]
_HEADERS = ["[options]", "[ssh]", "[web]", "[ssh]  # two", "[a b]", '[say "hello"]', "[]", "[ssh", "[ü\udcff]"]
_KEYS = [
    *("UseSyslog", "LogFile", "PidFile", "Interface", "Mark", "Guard", "State_Dir"),
    *("Classic", "Strays", "Knockers", "Control", "Published"),
    *("Sequence", "sequence", "One_Time_Sequences", "Seq_Timeout", "timeout", "TCPFlags", "Target"),
    *("open_ports", "open_timeout", "close_door", "command", "start_command", "start_command_6"),
    *("stop_command", "stop_command_6", "cmd_timeout", "ports", "allow", "refuse", "knock", "nonsense", ""),
]
_VALUES = [
    *("/var/log/knockd.log", "eth0, any", "0x1000", "5", "0", "2.5", "-1", "1e9", "99999999999", "nan", "٣", ""),
    *("syn", "syn,!ack", "!syn,syn", "22/tcp", "22,60000-60010/udp", "0/tcp", "70000", "30-20", "ssh", "web"),
    *("198.18.0.9", "fd00:5e5a::9", "fe80::1%eth0", "198.18.0.0/24, fd00:5e5a::/32", "198.18.0.7/24", "1/33"),
    *("repeats, doors", "scans", "names", "512", "250000", "/run/knockd/control", "none"),
    *("/etc/a\0b", "/etc/\udcff", "\0", "/etc/" + 300 * "x"),
    *("reset", "drop", "yes", "echo %IP% # not a comment", "x # a comment", "5,9,7", "1:sctp", ",,", "\ufeff", "\xa0"),
    *_SPELLINGS,
    *_SPELLINGS[:3],
]
_ALWAYS = "[ssh]\nsequence = 20113:tcp,11873:udp,28391:tcp\nopen_ports = 22/tcp\n"


def config_text(source: Source) -> str:
    """Lines as people write them, and lines as nobody does."""
    lines = [_ALWAYS] if source.number(2) else []
    while source and len(lines) < 24:
        kind = source.number(16)
        if kind < 4:
            line = source.choice(_HEADERS)
        elif kind < 14:
            line = source.choice(_KEYS) + source.choice((" = ", "=", " ", " == ")) + source.choice(_VALUES)
        elif kind == 14:
            line = source.choice(_SPELLINGS)
        else:
            line = source.take(source.number(24)).decode("utf-8", "surrogateescape")
        if source.once_in(8):
            line = source.damage(line.encode("utf-8", "surrogateescape"), 2).decode("utf-8", "surrogateescape")
        lines.append(line)
    return source.choice(("\n", "\n", "\r\n")).join(lines)


def configs(data: bytes) -> int:
    """A text is settings that every later room can use, or one error that names its line; neither shows a sequence."""
    text = config_text(Source(data))
    with contextlib.suppress(ConfigError):
        check_settings(judged(text, parse))
    return 1


def guards(data: bytes) -> int:
    """The same for guard files."""
    text = config_text(Source(data))
    with contextlib.suppress(ConfigError):
        check_guards(judged(text, parse_guard))
    return 1


def judged(text, parser):  # type: ignore[no-untyped-def]
    """What a parser makes of a text; raises ConfigError after a look at its message."""
    try:
        made = parser(text, "file")
    except ConfigError as error:
        message = str(error)
        told = re.match(r"file:(\d+): .", message)
        assert told and 1 <= int(told.group(1)) <= text.count("\n") + 1, message
        check_message(message, text)
        raise
    return made


def check_message(message: str, text: str) -> None:
    """One line that does not show a sequence; the name of a door is shown, whatever people write there."""
    assert "\n" not in message, message
    names = "".join(re.findall(r"\[(.*)\]", text))
    assert len(secrets(message) - secrets(names)) < 2, message


def secrets(text: str) -> set[str]:
    text = re.sub(r"-[0-9]+", "", text)  # a range of ports is no sequence
    return {port for port in SECRET if re.search(rf"\b{port}\b", text)}


def check_settings(settings: Settings) -> None:
    for warning in settings.warnings:
        assert re.match(r"file:\d+: ", warning), warning
        check_message(warning, "".join("[%s]" % door.name for door in settings.doors))
    check_paths(settings)
    for door in settings.doors:
        assert door.sequence or door.one_time_sequences
        assert all(1 <= knock.port <= 65535 for knock in door.sequence)
        assert door.seq_timeout > 0
        said = kernel.comment(door.name)
        assert b'"' not in said and said.decode().isprintable() and len(said) <= kernel.COMMENT_BYTES
        elements.batch(elements.renew(kernel.NAME, [kernel.element(ME_6, ports) for ports in door.open_ports]))
    for version in (4, 6):
        assert len(bpf.program(settings.doors, version)) <= 4096  # linux/bpf_common.h, BPF_MAXINSNS
    Tracker(settings.doors).observe(1.0, KNOCKERS[0], ME, TCP, 20113, SYN)


def check_paths(settings: Settings) -> None:
    """No path is worse than one that is not there."""
    paths = [settings.log_file, settings.pid_file, settings.guard_file, settings.state_dir, settings.control]
    for path in paths + [door.one_time_sequences for door in settings.doors]:
        with contextlib.suppress(OSError):
            os.lstat(path or "/")


def check_guards(found: tuple[Guard, ...]) -> None:
    for line in kernel.guard_lines(found, has_ranges=True):
        assert "\n" not in line


# One-time sequences

_ONCE = [b" 20113,11873:udp,28391", b"5,9,7", b" 31,12,25 # bob", b"5:tcp, 9 ,7", b"# used", b"20113 11873", b"0", b""]


class Once:
    """A file of one-time sequences, written anew for each input."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self, data: bytes) -> int:
        """No sequence comes twice, whatever else the file holds, and nothing but marks changes in it."""
        source = Source(data)
        lines = []
        while source:
            line = source.choice(_ONCE)
            lines.append(source.damage(line, 2) if source.once_in(3) else line)
        content = source.choice((b"\n", b"\r\n")).join(lines)
        self._path.write_bytes(content)
        seen = []
        left = one_time.supply(os.fspath(self._path))
        while left.sequence:
            assert left.sequence not in seen, "a sequence comes twice"
            seen.append(left.sequence)
            for warning in left.warnings:
                assert len(secrets(warning)) < 2, warning
            left = one_time.consume(os.fspath(self._path), left.sequence)
        marked = self._path.read_bytes()
        assert len(marked) == len(content)
        assert all(new in (old, ord("#")) for old, new in zip(content, marked))
        return 1


# Netlink

_KINDS = [16, 17, 20, 21, 2, 3, 24, 0]  # RTM_NEWLINK, DELLINK, NEWADDR, DELADDR; NLMSG_ERROR, DONE; others
_NAMES = [b"eth0\0", b"any\0", b"\xff\xfe\0", b"", b"eth0.100\0", b"x" * 300]


def netlink_message(source: Source) -> bytes:
    """A message of the kernel about a link or an address."""
    kind = source.choice(_KINDS)
    fixed = struct.pack("=BxHiII", source.choice((0, 0, 7, 2)), 1, source.number(6), 0, 0)
    if kind in (20, 21):
        fixed = struct.pack("=BBBBI", source.choice((2, 10)), 24, 0, 0, source.number(6))
    body = fixed
    for _ in range(source.number(4)):
        value = source.choice(_NAMES) if source.number(2) else source.take(source.choice((4, 16, 0, 3)))
        attribute = struct.pack("=HH", 4 + len(value), source.choice((3, 1, 2, 0x8003, 5))) + value
        body += attribute.ljust((len(attribute) + 3) & ~3, b"\0")
    length = source.number(65536) if source.once_in(8) else 16 + len(body)
    message = struct.pack("=IHHII", length, kind, source.choice((0, 2, 0x10)), 0, 0) + body
    return source.damage(message) if source.once_in(3) else message


class Wire:
    """What the kernel would tell, to the room that follows it."""

    def __init__(self) -> None:
        self._links = Links()

    def close(self) -> None:
        self._links.close()

    def netlink(self, data: bytes) -> int:
        """No message is trouble, however short or wrong, and each datagram comes to an end."""
        source = Source(data)
        while source:
            datagram = b"".join(netlink_message(source) for _ in range(1 + source.number(3)))
            found = list(netlink.messages(datagram))
            assert len(found) <= len(datagram) // 16
            for kind, _flags, payload in found:
                netlink.attributes(payload)
                self._links._apply(kind, payload)
            netlink.refusal(datagram)
            self._links.index("eth0")
            assert all(isinstance(address, bytes) for address in self._links.addresses(("any",)))
        return 1


# Control messages

_COMMANDS: list[object] = ["status", "open", "close", "watch", "nonsense", "", 5, None, {}]
_FIELDS: list[object] = [
    *("198.18.0.9", "fd00:5e5a::9", "fe80::1%eth0", "198.18.0.300", "", "\0", "ssh", "mixed", None, True, 5, -1, 1e9),
    *(float("nan"), float("inf"), 10**400, [], {"a": 1}, "x" * 5000),
]
_PLACES = ["address", "door", "seconds", "other"]
NATIVE = (Door("ssh", SSH.sequence, open_ports=parse("[a]\nsequence=5,9,7\nopen_ports=22", "x").doors[0].open_ports),)


def request(source: Source) -> bytes:
    """A request as knockctl would send it, or nearly."""
    asked: dict[str, object] = {"command": source.choice(_COMMANDS)}
    for _ in range(source.number(5)):
        asked[source.choice(_PLACES)] = source.choice(_FIELDS)
    line = json.dumps(asked).encode() + b"\n"
    return source.damage(line, 3) if source.once_in(3) else line


class Desk:
    """The control socket, with clients that send anything, hang up at any moment, and one that asks properly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._selector = selectors.DefaultSelector()
        self._control = Control(self._selector, self._answer)
        self._control.listen(os.fspath(path))

    def close(self) -> None:
        self._control.close()
        self._selector.close()

    @staticmethod
    def _answer(asked: dict[str, object]) -> object:
        if asked["command"] == "open":
            return repr(console.read_open(asked, NATIVE))
        if asked["command"] == "close":
            return repr(console.read_close(asked))
        if asked["command"] == "status":
            return {}
        raise ControlError("unknown")

    def _turn(self) -> None:
        while ready := self._selector.select(0):
            for key, _events in ready:
                key.data(key.fileobj)

    def messages(self, data: bytes) -> int:
        """Each client gets one line of JSON or nothing, and the next one is served."""
        source = Source(data)
        clients: list[socket.socket] = []
        while source and len(clients) < 12:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            client.connect(os.fspath(self._path))
            clients.append(client)
            message = source.take(source.number(200)) if source.once_in(8) else request(source)
            middle = source.number(256)
            for part in (message[:middle], message[middle:]):
                with contextlib.suppress(OSError):
                    client.send(part)
                self._turn()
            if source.once_in(8):
                client.close()
            elif source.once_in(8):
                client.shutdown(socket.SHUT_WR)
            self._turn()
            self._control.tell({"event": "open"})
        for client in clients:
            if client.fileno() >= 0:
                check_reply(client)
                client.close()
        self._turn()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(os.fspath(self._path))
            client.send(b'{"command": "status"}\n')
            self._turn()
            client.setblocking(False)
            assert json.loads(client.recv(65536)) == {"ok": {}}
        self._control.expire(float("inf"))  # those that have said nothing
        self._turn()
        assert self._control.next_deadline() is None
        return len(clients) + 1


def check_reply(client: socket.socket) -> None:
    """What a client has got: lines of JSON objects."""
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        for line in client.recv(1 << 20).splitlines():
            assert isinstance(json.loads(line), dict)
