# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The socket of knockctl(8): one line of JSON asks, one line of JSON answers, and who wants may stay and watch.

    {"command": "status"}  ->  {"ok": ...}  or  {"error": "what is wrong: the cure"}

Clients cannot hold up the daemon: every socket is non-blocking, a request has REQUEST bytes and PATIENCE seconds,
there are at most CLIENTS of them, and a watcher that does not keep up is let go at BACKLOG bytes.

Who may ask is said twice: by the modes of the socket and its directory, and by the kernel's word on the peer
(SO_PEERCRED): root, the daemon's own user, and members of the group that the daemon runs with. Under systemd that is
knockctl; what only the daemon may read belongs to another group, which it has as a supplementary one.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import stat
import struct
import time
from typing import Any, Callable, Dict, Optional, Tuple

REQUEST = 4096
"""Bytes; the longest request that makes sense is a tenth of that."""
PATIENCE = 5.0
"""Seconds in which a client must have asked and taken its answer."""
CLIENTS = 16
BACKLOG = 1 << 18
"""Bytes that may wait for a watcher: some thousands of events."""

WATCH = "watch"

UCRED = struct.Struct("=iII")  # struct ucred of sys/socket.h: pid, uid, gid
SO_PEERGROUPS = 59  # asm-generic/socket.h, kernel 4.13


class ControlError(Exception):
    """The socket cannot be had, or a request not be met; the message says why, and the cure."""


class _Client:
    """One connection: what came in, what has to go out, and until when."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.socket = connection
        self.deadline: Optional[float] = deadline
        """None for a watcher."""
        self.received = b""
        self.sending = b""
        self.answered = False


class Control:
    """Listens from `listen` to `close`; `answer` gets the request and returns what is `ok`, or raises ControlError."""

    def __init__(self, selector: selectors.BaseSelector, answer: Callable[[Dict[str, Any]], object]) -> None:
        self._selector = selector
        self._answer = answer
        self._path: Optional[str] = None
        self._listener: Optional[socket.socket] = None
        self._clients: Dict[socket.socket, _Client] = {}

    def listen(self, path: Optional[str]) -> None:
        """Listens at this path, and no longer at another; not at all for None. Raises ControlError."""
        if path == self._path:
            return
        self._stop_listening()
        if path is None:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _remove_stale(path)
            before = os.umask(0o177)  # nobody else's for a moment, either
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            os.chmod(path, 0o660)
            listener.listen(CLIENTS)
        except OSError as error:
            listener.close()
            raise ControlError("no control socket at %s: %s" % (path, error.strerror or error)) from error
        self._path, self._listener = path, listener
        self._selector.register(listener, selectors.EVENT_READ, self._on_connection)

    def tell(self, event: Dict[str, Any]) -> None:
        """Shows an event to those who watch."""
        watchers = [client for client in self._clients.values() if client.answered and client.deadline is None]
        if not watchers:
            return
        line = _line(event)
        for client in watchers:
            if len(client.sending) + len(line) > BACKLOG:
                self._drop(client)
            else:
                client.sending += line
                self._send(client)

    def expire(self, now: float) -> None:
        """Lets those go who take too long."""
        for client in list(self._clients.values()):
            if client.deadline is not None and now >= client.deadline:
                self._drop(client)

    def next_deadline(self) -> Optional[float]:
        """When `expire` has something to do."""
        deadlines = [client.deadline for client in self._clients.values() if client.deadline is not None]
        return min(deadlines, default=None)

    def close(self) -> None:
        """Ends all conversations and removes the socket."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listener and self._path:
            self._selector.unregister(self._listener)
            self._listener.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self._path = self._listener = None

    def _on_connection(self, listener: socket.socket) -> None:
        try:
            connection, _address = listener.accept()
        except OSError:
            return  # it has gone again
        connection.setblocking(False)
        refusal = None
        if not _may_ask(connection):
            refusal = "only root and the group that the daemon runs with may ask"
        elif len(self._clients) >= CLIENTS:
            refusal = "%d others are asking or watching already: try again" % CLIENTS
        if refusal:
            with contextlib.suppress(OSError), connection:
                connection.send(_line({"error": refusal}))
            return
        self._clients[connection] = _Client(connection, time.monotonic() + PATIENCE)
        self._selector.register(connection, selectors.EVENT_READ, self._on_client)

    def _on_client(self, connection: socket.socket) -> None:
        client = self._clients.get(connection)
        if client is None:
            return  # dropped by what was handled before it in this turn
        try:
            data = connection.recv(REQUEST)
        except BlockingIOError:
            self._send(client)
            return
        except OSError:
            data = b""
        if client.answered:
            # It has nothing more to say. A watcher that hangs up is gone; one that only asked still gets its answer.
            if data or client.deadline is None:
                self._drop(client)
            else:
                self._send(client)
            return
        client.received += data
        request, end, _rest = client.received.partition(b"\n")
        if end or not data or len(client.received) > REQUEST:
            self._reply(client, request)

    def _reply(self, client: _Client, request: bytes) -> None:
        watches = False
        try:
            asked = _request(request)
            watches = asked["command"] == WATCH
            reply: Dict[str, Any] = {"ok": None if watches else self._answer(asked)}
        except ControlError as error:
            reply = {"error": str(error)}
        client.answered = True
        client.sending = _line(reply)
        if watches:
            client.deadline = None
        self._send(client)

    def _send(self, client: _Client) -> None:
        """Sends what the client takes now; the rest when it is ready for it."""
        try:
            while client.sending:
                client.sending = client.sending[client.socket.send(client.sending) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if not client.sending and client.answered and client.deadline is not None:
            self._drop(client)
            return
        # A client that waits for nothing but our answer is not listened to: its end of file would wake us for ever.
        events = selectors.EVENT_WRITE if client.sending else 0
        if not client.answered or client.deadline is None:
            events |= selectors.EVENT_READ
        self._selector.modify(client.socket, events, self._on_client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.socket]
        self._selector.unregister(client.socket)
        client.socket.close()


def _request(data: bytes) -> Dict[str, Any]:
    """The request in a line; raises ControlError for anything else."""
    if len(data) > REQUEST:
        raise ControlError("the request is longer than %d bytes" % REQUEST)
    try:
        request = json.loads(data)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise ControlError('the request is no JSON object with a "command"')
    return request


def _line(value: Dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _may_ask(connection: socket.socket) -> bool:
    """Whether the kernel says that the peer is root, our own user, or of our group."""
    _pid, user, group = UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return user in (0, os.geteuid()) or os.getegid() in (group, *_groups(connection))


def _groups(connection: socket.socket) -> Tuple[int, ...]:
    """The supplementary groups of the peer."""
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError:
        return ()  # an older kernel, or more groups than that: the first one has to do
    return struct.unpack("=%dI" % (len(packed) // 4), packed)


def _remove_stale(path: str) -> None:
    """Removes the socket of a daemon that was killed; raises ControlError if it is anything else, or not dead."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ControlError("no control socket at %s: something else is there: remove it" % path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise ControlError("no control socket at %s: another daemon listens there" % path)
