# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many real connections and datagrams at once: which of them arrive is known after one short wait for all."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import time
from typing import Any, Callable, Iterable, Optional, Tuple

Address = Tuple[str, int]

_WORD = b"sesame"
_AGAIN = 0.2
"""Seconds after which a datagram that has to arrive is sent once more."""


# Python has no names for these
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2
_NARROW = 1280


class Attempt:
    """One try: a connection, a datagram, or a word and its echo over a connection that is there."""

    def __init__(self, wire: socket.socket, wanted: bool) -> None:
        self.wire = wire
        self.wanted = wanted
        """Whether it has to succeed; the others are waited for no longer than these."""
        self.succeeded: Optional[bool] = None
        """None as long as nobody knows."""
        self.again: Optional[Callable[[], object]] = None

    def is_open(self) -> bool:
        return self.succeeded is None


class Traffic:
    """The sockets of one trial. Who makes one has entered the namespace that it shall belong to."""

    def __init__(self, family: str) -> None:
        self._family = socket.AF_INET6 if family == "v6" else socket.AF_INET
        self._any = "::" if family == "v6" else "0.0.0.0"  # nobody but the scratch world can reach it
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._accepted: dict[Address, socket.socket] = {}
        """The host's ends of connections, by the world's address and port."""
        self._datagrams: dict[Address, Attempt] = {}

    def close(self) -> None:
        """End all, without a word to the other side."""
        for wire in self._sockets:
            self._hang_up(wire)
        self._selector.close()

    # The host.

    def listen(self, port: int, protocol: str) -> None:
        """Take connections and echo what they say; take datagrams."""
        wire = self._socket(protocol)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._family == socket.AF_INET6:
            wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        wire.bind((self._any, port))
        if protocol == "tcp":
            wire.listen(4096)
        self._watch(wire, selectors.EVENT_READ, self._accept if protocol == "tcp" else self._receive)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            wire, peer = listener.accept()
            wire.setblocking(False)
            self._sockets.append(wire)
            self._accepted[peer[:2]] = wire
            self._watch(wire, selectors.EVENT_READ, self._echo)

    def _receive(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer = listener.recvfrom(64)[1][:2]
            if peer in self._datagrams:
                self._resolve(self._datagrams[peer], True)

    def _echo(self, wire: socket.socket) -> None:
        try:
            word = wire.recv(64)
            if word:
                wire.send(word)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._ignore(wire)

    # Who comes.

    def try_to_reach(self, target: str, port: int, protocol: str, source: str, wanted: bool) -> Attempt:
        """Open a connection from this address, or send a datagram."""
        attempt = Attempt(self._socket(protocol), wanted)
        attempt.wire.bind((source, 0))
        if protocol == "udp":
            self._send_datagram(attempt, (target, port))
            return attempt
        error = attempt.wire.connect_ex((target, port))
        if error == 0:
            attempt.succeeded = True
        elif error != errno.EINPROGRESS:
            attempt.succeeded = False
        else:
            self._watch(attempt.wire, selectors.EVENT_WRITE, lambda wire: self._connected(attempt))
        return attempt

    def _connected(self, attempt: Attempt) -> None:
        self._resolve(attempt, attempt.wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0)

    def _send_datagram(self, attempt: Attempt, target: Address) -> None:
        def send() -> None:
            with contextlib.suppress(OSError):
                attempt.wire.send(_WORD)

        if attempt.wire.connect_ex(target):
            attempt.succeeded = False
            return
        self._datagrams[attempt.wire.getsockname()[:2]] = attempt
        # Readable: an answer by ICMP, that nobody may enter
        self._watch(attempt.wire, selectors.EVENT_READ, lambda wire: self._resolve(attempt, False))
        attempt.again = send
        send()

    # Sessions.

    def talk(self, session: Attempt, host_first: bool = False) -> Attempt:
        """A word over a connection that is there, and its echo. Connections are accepted once somebody has spoken."""
        far, near = self._accepted.get(session.wire.getsockname()[:2]), session.wire
        speaker, listener = (far, near) if host_first else (near, far)
        if speaker is None:
            raise ValueError("the host cannot be the first to speak over a connection that it has not accepted")
        attempt = Attempt(speaker, True)

        def hear(wire: socket.socket) -> None:
            try:
                self._resolve(attempt, bool(wire.recv(64)))
            except BlockingIOError:
                pass
            except OSError:
                self._resolve(attempt, False)

        if listener is not None:
            self._watch(listener, selectors.EVENT_READ, self._echo)
        self._watch(speaker, selectors.EVENT_READ, hear)
        try:
            speaker.send(_WORD)
        except OSError:
            self._resolve(attempt, False)
        return attempt

    # Word of a narrow path.

    def flow(self, own: str) -> socket.socket:
        """The host's end of datagrams that it sends to somebody, as large as its own interface takes them."""
        wire = self._socket("udp")
        if self._family == socket.AF_INET6:
            wire.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
        else:
            wire.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        wire.bind((own, 0))
        return wire

    def tell_too_big(self, flow: socket.socket, source: str) -> Attempt:
        """Let the host send this source a datagram, and answer as a router does that cannot pass on so large a one."""
        far = self._socket("udp")
        far.bind((source, 0))
        attempt = Attempt(flow, True)

        def hear(wire: socket.socket) -> None:
            try:
                wire.recv(64)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    self._resolve(attempt, True)

        self._watch(flow, selectors.EVENT_READ, hear)
        protocol = socket.IPPROTO_ICMPV6 if self._family == socket.AF_INET6 else socket.IPPROTO_ICMP
        router = socket.socket(self._family, socket.SOCK_RAW, protocol)
        self._sockets.append(router)
        router.bind((source, 0))
        try:
            flow.connect(far.getsockname()[:2])
            flow.send(_WORD)
            router.sendto(_too_big(flow.getsockname()[:2], far.getsockname()[:2]), (flow.getsockname()[0], 0))
        except OSError:  # rules that let the host send nothing: it never meets a narrow path
            self._resolve(attempt, True)
        return attempt

    def drop(self, attempts: Iterable[Attempt]) -> None:
        """Close connections by a reset: nothing of them is under way later."""
        for attempt in attempts:
            self._hang_up(attempt.wire)

    # Waiting.

    def settle(self, attempts: Iterable[Attempt], patience: float, quiet: float) -> float:
        """Wait until all is known; returns the seconds.

        What is wanted has `patience`. The others count as refused when nothing has come of them for `quiet` seconds
        more, for they were sent no later than what has arrived meanwhile.
        """
        everything = list(attempts)
        start = now = time.monotonic()
        again = start + _AGAIN
        silent_since: Optional[float] = None
        while any(attempt.is_open() for attempt in everything):
            if any(attempt.is_open() and attempt.wanted for attempt in everything):
                end = start + patience
            else:
                silent_since = now if silent_since is None else silent_since
                end = silent_since + quiet
            if now >= end:
                break
            for key, dummy in self._selector.select(min(end, again) - now):
                key.data(key.fileobj)
            now = time.monotonic()
            if now >= again:
                again = now + _AGAIN
                for attempt in everything:
                    if attempt.again and attempt.is_open() and attempt.wanted:
                        attempt.again()
        for attempt in everything:
            if attempt.is_open():
                self._resolve(attempt, False)
        return now - start

    # Sockets.

    def _socket(self, protocol: str) -> socket.socket:
        wire = socket.socket(self._family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
        wire.setblocking(False)
        self._sockets.append(wire)
        return wire

    def _resolve(self, attempt: Attempt, succeeded: bool) -> None:
        if attempt.is_open():
            attempt.succeeded = succeeded
            self._ignore(attempt.wire)

    def _watch(self, wire: socket.socket, events: int, handler: Callable[[socket.socket], Any]) -> None:
        self._ignore(wire)
        self._selector.register(wire, events, handler)

    def _ignore(self, wire: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(wire)

    def _hang_up(self, wire: socket.socket) -> None:
        self._ignore(wire)
        if wire.fileno() >= 0:
            with contextlib.suppress(OSError):
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.close()


def _too_big(sender: Address, receiver: Address) -> bytes:
    """What ICMP says of a datagram that does not fit: fragmentation needed, or packet too big."""
    datagram = struct.pack("!HHHH", sender[1], receiver[1], 8 + len(_WORD), 0)
    if ":" in sender[0]:
        ends = socket.inet_pton(socket.AF_INET6, sender[0]) + socket.inet_pton(socket.AF_INET6, receiver[0])
        head = struct.pack("!IHBB", 6 << 28, len(datagram) + len(_WORD), socket.IPPROTO_UDP, 64) + ends
        return struct.pack("!BBHI", 2, 0, 0, _NARROW) + head + datagram + _WORD  # the kernel adds the checksum
    ends = socket.inet_aton(sender[0]) + socket.inet_aton(receiver[0])
    size = 20 + len(datagram) + len(_WORD)
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0x4000, 64, socket.IPPROTO_UDP, 0) + ends
    said = head + datagram + _WORD
    checksum = _checksum(struct.pack("!BBHHH", 3, 4, 0, 0, _NARROW) + said)
    return struct.pack("!BBHHH", 3, 4, checksum, 0, _NARROW) + said


def _checksum(message: bytes) -> int:
    """RFC 1071."""
    message += b"\0" * (len(message) % 2)
    total = sum(struct.unpack("!%dH" % (len(message) // 2), message))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
