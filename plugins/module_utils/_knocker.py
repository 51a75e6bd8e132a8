# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Knocks at a door and connects through it: one address for everything, in order, and as soon as the port is open.

The module, the lookups and the commands of the client all knock through this one file (the client's copy is a link to
it). It imports little, because every `ssh` waits for it: not even typing, which takes 5 ms.

**Nobody is accepted but the winner.** sshd counts each connection that it accepts and that does not log in
(PerSourcePenalties), so connects that only look, and those that lose a race, must never be accepted. Where the kernel
has TCP_DEFER_ACCEPT (Linux), a client's socket with this option holds the third packet of the handshake back for up to
200 ms (tcp_rcv_synsent_state_process in net/ipv4/tcp_input.c, tcp(7)): the answer has shown that the port is open, and
closing with a linger of zero sends a reset in place of that packet. So a look costs the server no connection at all.
Elsewhere a look is a whole connection, and the connects of a race are spaced so that losers are closed before the
server answers them.

**Was it open before?** Just before the first knock leaves, a first connect does. The network keeps their order, so an
answer to this SYN says that the port was open without the knock: the firewall is off, or lets this machine in anyway,
or an earlier knock still counts. The kernel sends the SYN again after a second, and then the answer may be the knock's.

Times are seconds. No message holds a sequence.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections import namedtuple

from ._sequence import Knock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence

DELAY = 0.002
"""Between two knocks, and between the last knock and the first connect: longer than most networks swap packets."""
SLOWEST_DELAY = 0.2
"""The delay grows fourfold after each knock that opened nothing, up to this."""
TIMEOUT = 10.0
"""Until a knock that opens nothing is given up."""
CLOSED_TIMEOUT = 30.0
"""Until a port that does not close is given up: longer than doors stay open."""

LOOKS_ARE_FREE = hasattr(socket, "TCP_DEFER_ACCEPT")
"""Does a look cost the server no connection?"""

_FAMILIES = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
FAMILIES = tuple(_FAMILIES)

# Connects start this far apart: at first close together, so that a port that opens late is seen at once, then rarely,
# so that refusals cost little and a port that drops packets holds few sockets.
_FIRST_GAP, _LAST_GAP = 0.003, 0.25
_MOST_CONNECTS = 8
# How long a knock may take to open the port before the next one is sent: the first window covers a round trip round
# the world, the later ones a lost SYN of our own (sent again by the kernel after 1 s).
_WINDOWS = (0.5, 1.2, 2.0)
# Before this the kernel has sent a SYN once only (TCP_TIMEOUT_INIT in include/net/tcp.h; RFC 6298, 2.1).
_REPEATED = 1.0
# A refusal comes within a round trip; silence is believed after the kernel has repeated the SYN (1 s) for an answer.
_SILENCE = 1.5


class KnockError(Exception):
    """A knock that did not do its job; the message is for the person who knocked, `status` for the command's exit."""

    status = 1


class NotResolved(KnockError):
    """The host has no address (of the wanted family)."""

    status = 3


class NoRoute(KnockError):
    """This machine cannot send to the host's address."""

    status = 4


class StillClosed(KnockError):
    """The knocks were sent, and the port did not open."""

    status = 5


class StillOpen(KnockError):
    """The port did not close."""

    status = 6


class Target(namedtuple("Target", ("host", "family", "address", "scope", "source"), defaults=(0, None))):
    """One address of a host, for all knocks and the connect."""

    __slots__ = ()
    host: str
    """As the person wrote it."""
    family: int
    address: str
    scope: int
    """The interface of a link-local IPv6 address."""
    source: Optional[str]
    """The local address to send from; None leaves it to the kernel."""

    def at(self, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """Give the socket address of a port."""
        return (self.address, port, 0, self.scope) if self.family == socket.AF_INET6 else (self.address, port)

    def __str__(self) -> str:
        return self.host if self.host == self.address else "%s (%s)" % (self.host, self.address)


class Opened(namedtuple("Opened", ("was_open", "knocks"))):
    """How a port came to be open."""

    __slots__ = ()
    was_open: bool
    """Before the first knock, so that it was not the knock's doing. `OPEN_BEFORE` has the words for it."""
    knocks: int
    """Packets that were sent as knocks, repetitions included."""


OPEN_BEFORE = (
    "port %d of %s was open before the knock: its firewall is not on, lets this machine in without a knock, or an "
    "earlier knock still counts"
)
"""What a caller may say: `OPEN_BEFORE % (port, target)`."""


def resolve(host: str, family: str = "any", source: str | None = None) -> Target:
    """Choose the one address to knock at: the resolver's first that this machine has a route to."""
    # From a str it would make bytes by the idna codec, whose import takes longer than the knock.
    name: str | bytes = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, None, _FAMILIES[family], socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # an over-long or odd name fails in the codec
        reason = getattr(error, "strerror", None) or str(error)
        wanted = "" if family == "any" else " of family %s" % family
        raise NotResolved("no address%s for the host %s: %s" % (wanted, host, reason)) from None
    reason = ""
    for kind, _type, _protocol, _name, sockaddr in found:
        target = Target(host, kind, str(sockaddr[0]), int(sockaddr[3]) if len(sockaddr) == 4 else 0, source)
        try:
            with _socket(target, socket.SOCK_DGRAM) as sock:
                sock.connect(target.at(9))  # sends nothing: the kernel only looks the route up
            return target
        except OSError as error:
            reason = reason or "%s: %s" % (target, error.strerror)
    raise NoRoute("no route to %s" % reason)


def knock(
    target: Target,
    knocks: Sequence[Knock],
    delay: float = DELAY,
    tell: Callable[[Knock], None] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Send one packet for each knock, in order. A socket is closed at once: left open, it would send its SYN again."""
    for number, item in enumerate(knocks):
        if number:
            pause(delay)
        if tell:
            tell(item)
        try:
            if item.protocol == "udp":
                with _socket(target, socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"\0", target.at(item.port))
            else:
                with _looking_socket(target) as sock:
                    sock.connect(target.at(item.port))
        except (BlockingIOError, ConnectionRefusedError):
            pass  # on its way; and refused at once by this very machine
        except OSError as error:
            raise NoRoute("cannot send to %s: %s" % (target, error.strerror)) from None


def connect(
    target: Target,
    port: int,
    sequences: Sequence[Sequence[Knock]],
    delay: float = DELAY,
    timeout: float = TIMEOUT,
    report: Callable[[Opened], None] | None = None,
) -> socket.socket:
    """Knock, and give the connected, blocking socket; the server accepts this one connection and no other.

    The whole knock is repeated, slower, while the port stays closed. Of several sequences (during a rotation: the
    current one and the previous) each is tried in turn.
    """
    winner, opened = _open(target, port, sequences, delay, timeout, None, keep=True)
    if report:
        report(opened)
    return _accept(winner)


def wait_open(
    target: Target,
    port: int,
    sequences: Sequence[Sequence[Knock]],
    delay: float = DELAY,
    timeout: float = TIMEOUT,
    tell: Callable[[Knock], None] | None = None,
) -> Opened:
    """Knock until the port is open, as `connect` does, but let the server accept no connection where looks are free.

    Also at a port that is open already: then the knock renews the time for which its door stays open.
    """
    return _open(target, port, sequences, delay, timeout, tell, keep=False)[1]


def is_open(target: Target, port: int, patience: float = _SILENCE) -> bool:
    """Look once, without a knock: is the port open to this machine?"""
    with _Race(target, port, keep=False) as race:
        return race.run(time.monotonic() + patience, most=1) is not None


def wait_closed(target: Target, port: int, timeout: float = CLOSED_TIMEOUT) -> None:
    """Look now and then until the port refuses, or no longer answers."""
    deadline = time.monotonic() + timeout
    gap = 0.25 if LOOKS_ARE_FREE else 3.0
    while is_open(target, port):
        if time.monotonic() + gap > deadline:
            raise StillOpen("port %d of %s is still open after %.0f s" % (port, target, timeout))
        time.sleep(gap)
        gap = min(gap * 1.5, max(gap, 1.0))


def _open(
    target: Target,
    port: int,
    sequences: Sequence[Sequence[Knock]],
    delay: float,
    timeout: float,
    tell: Callable[[Knock], None] | None,
    *,
    keep: bool,
) -> tuple[socket.socket, Opened]:
    """Knock and race until one connect has an answer; give that socket: not yet accepted, or else already closed."""
    deadline = time.monotonic() + timeout
    attempt = knocks = 0

    def count(item: Knock) -> None:
        nonlocal knocks
        knocks += 1
        if tell:
            tell(item)

    with _Race(target, port, keep) as race:
        race.look()
        while True:
            rounds = attempt // len(sequences)
            pace = max(delay, min(delay * 4**rounds, SLOWEST_DELAY))
            # Whole also when the look is answered meanwhile: no daemon has to wonder about half a knock.
            knock(target, sequences[attempt % len(sequences)], pace, count, race.pause)
            race.pause(pace)
            # Jitter: clients that failed together must not knock together again.
            window = _WINDOWS[min(rounds, len(_WINDOWS) - 1)] * (1 + os.urandom(1)[0] / 512)
            winner = race.run(min(deadline, time.monotonic() + window))
            if winner:
                return winner, Opened(race.was_open, knocks)
            attempt += 1
            if time.monotonic() >= deadline:
                raise race.failure(attempt, timeout)


class _Race:
    """Connects to one port that are under way at the same time: one wins, the others are closed unaccepted.

    With `keep` the winner stays connected; without, it is closed as soon as it has won. Leaving the context closes all
    the others.
    """

    def __init__(self, target: Target, port: int, keep: bool) -> None:
        self._target = target
        self._port = port
        self._keep = keep
        self._pending: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._last_error = 0
        self._winner: Optional[socket.socket] = None
        self._look: Optional[socket.socket] = None
        self._looked_at = 0.0
        self.was_open = False
        """Has the look shown that the port was open before anybody knocked?"""

    def __enter__(self) -> _Race:
        return self

    def __exit__(self, *_exception: object) -> None:
        for descriptor in list(self._pending):
            self._withdraw(descriptor).close()

    def look(self) -> None:
        """Start a first connect, whose answer tells whether the port is open by now."""
        self._looked_at = time.monotonic()
        self._look = self._start()

    def pause(self, seconds: float) -> None:
        """Let time pass, and see what is answered meanwhile: a winner that waited would be accepted after 200 ms.

        With a connection in hand nothing is waited for: the order of the knocks no longer matters.
        """
        until = time.monotonic() + seconds
        while not (self._winner and self._keep) and time.monotonic() < until:
            self._wait(until)

    def run(self, until: float, most: int | None = None) -> socket.socket | None:
        """Start connects, `most` at most, until one has an answer; None when all were refused or time is up."""
        gap = _FIRST_GAP
        start = time.monotonic()
        started = 0
        while not self._winner:
            now = time.monotonic()
            if now >= start and (most is None or started < most):
                self._start()
                started += 1
                start, gap = now + gap, min(gap * 2, _LAST_GAP)
            if started == most:
                if not self._pending:
                    return None
                start = until
            self._wait(min(start, until))
            if time.monotonic() >= until:
                break
        return self._winner

    def failure(self, attempts: int, timeout: float) -> KnockError:
        """Say why nobody won."""
        if self._last_error in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return NoRoute("%s cannot be reached: %s" % (self._target, os.strerror(self._last_error)))
        return StillClosed(
            "port %d of %s stays closed after knocking %d times in %.0f s. Is the sequence the host's (one that "
            "changes with time needs the right clock on both sides), is knockd running there (systemctl status "
            "knockd), and do knocks and ssh leave from the same address (NAT, VPN)?"
            % (self._port, self._target, attempts, timeout)
        )

    def _wait(self, until: float) -> None:
        """Take what is answered until then, or at once if something is."""
        for descriptor, _events in self._poll.poll(max(0.0, until - time.monotonic()) * 1000):
            sock = self._withdraw(descriptor)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._last_error = error
            elif not self._winner:
                self._winner = sock
                self.was_open = sock is self._look and time.monotonic() < self._looked_at + _REPEATED
                if self._keep:
                    continue
            sock.close()

    def _start(self) -> socket.socket | None:
        """Start a connect, and give its socket, or None if it is over already."""
        sock = _looking_socket(self._target)
        try:
            sock.connect(self._target.at(self._port))
        except BlockingIOError:
            pass
        except OSError as error:  # refused by this very machine, or no way to send
            self._last_error = error.errno or 0
            sock.close()
            return None
        self._pending[sock.fileno()] = sock
        self._poll.register(sock, select.POLLOUT)
        if len(self._pending) > _MOST_CONNECTS:
            self._withdraw(next(iter(self._pending))).close()
        return sock

    def _withdraw(self, descriptor: int) -> socket.socket:
        self._poll.unregister(descriptor)
        return self._pending.pop(descriptor)


def _socket(target: Target, kind: int) -> socket.socket:
    """Make a non-blocking socket that leaves from the wanted address."""
    sock = socket.socket(target.family, kind)
    try:
        sock.setblocking(False)
        if target.source:
            sock.bind((target.source, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _looking_socket(target: Target) -> socket.socket:
    """Make a tcp socket whose connection the server does not accept unless `_accept` lets it."""
    sock = _socket(target, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if LOOKS_ARE_FREE:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    return sock


def _accept(sock: socket.socket) -> socket.socket:
    """Finish the handshake, and make the socket one like any other."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    if LOOKS_ARE_FREE:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # sends what was held back
    sock.setblocking(True)
    return sock
