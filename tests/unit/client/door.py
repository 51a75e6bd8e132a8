# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A door on this machine's loopback: real sockets, no root. Knocks are udp, so that they can be seen arriving."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable

BANNER = b"SSH-2.0-door\r\n"


class Door:
    """A tcp port that refuses until the udp knocks have arrived in order, and what happened to it."""

    def __init__(self, *, length: int = 3, deaf_rounds: int = 0, opens_after: float = 0.0) -> None:
        self.arrived: list[int] = []
        """Ports of the knocks, in the order of their coming."""
        self.accepted = 0
        self.serve: Callable[[socket.socket], None] = lambda connection: connection.sendall(BANNER)
        self._deaf_rounds = deaf_rounds
        self._opens_after = opens_after
        self._knocks = [_bound(socket.SOCK_DGRAM) for _knock in range(length)]
        self._listener = _bound(socket.SOCK_STREAM)  # bound but not listening: refuses
        self._stop, self._stopped = socket.socketpair()
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def ports(self) -> list[int]:
        return [knock.getsockname()[1] for knock in self._knocks]

    @property
    def sequence(self) -> str:
        return ",".join("%d:udp" % port for port in self.ports)

    def open(self) -> None:
        self._listener.listen(64)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)

    def settle(self) -> int:
        """Give what is under way time to be accepted, and say how many were."""
        time.sleep(0.4)  # longer than the kernel holds a client's last packet of the handshake back
        return self.accepted

    def _run(self) -> None:
        rounds = 0
        while True:
            waiting = [*self._knocks, self._stopped]
            if self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                waiting.append(self._listener)
            for ready in select.select(waiting, [], [], 0.02)[0]:
                if ready is self._stopped:
                    return
                if ready is self._listener:
                    with contextlib.suppress(OSError):
                        connection, _peer = ready.accept()
                        self._connections.append(connection)
                        self.accepted += 1
                        self.serve(connection)
                    continue
                ready.recv(16)
                self.arrived.append(ready.getsockname()[1])
                if self.arrived[-len(self.ports) :] == self.ports:
                    rounds += 1
                    if rounds > self._deaf_rounds:
                        time.sleep(self._opens_after)
                        self.open()

    def remove(self) -> None:
        self._stop.close()
        self._thread.join()
        for sock in [*self._knocks, self._listener, self._stopped, *self._connections]:
            sock.close()


def _bound(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:  # a listener that is shut down keeps only a port that it has asked for
        name = sock.getsockname()
        sock.close()
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind(name)
    return sock
