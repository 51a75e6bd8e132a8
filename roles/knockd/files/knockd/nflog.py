# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A group of NFLOG: the packets that our table logs, as they come (linux/netfilter/nfnetlink_log.h)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Iterator

from .elements import NETLINK_NETFILTER, NFGENMSG
from .netlink import NLM_F_ACK, attribute, attributes, messages, refusal, request
from .packet import SNAP, Packet, parse

NFNL_SUBSYS_ULOG = 4
NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG = NFNL_SUBSYS_ULOG << 8, NFNL_SUBSYS_ULOG << 8 | 1
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_NLBUFSIZ, NFULA_CFG_QTHRESH, NFULA_PAYLOAD = 1, 2, 3, 5, 9
NFULNL_CFG_CMD_BIND, NFULNL_COPY_PACKET = b"\1", 2
_MODE, _NUMBER = struct.Struct(">IBx"), struct.Struct(">I")

FIRST_GROUP, GROUPS = 27502, 64
"""Groups are a host's own affair; somebody may have taken one, hardly all of these."""
MESSAGE_BYTES = 256
RECEIVE_BUFFER = 4 << 20


class Nflog:
    """Holds the first free group. Raises OSError where the kernel has no NFLOG or does not let us."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        try:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                self.group = self._bind()
                # One message a packet, and at once.
                self._configure(attribute(NFULA_CFG_MODE, _MODE.pack(SNAP, NFULNL_COPY_PACKET)))
                self._configure(attribute(NFULA_CFG_NLBUFSIZ, _NUMBER.pack(MESSAGE_BYTES)))
                self._configure(attribute(NFULA_CFG_QTHRESH, _NUMBER.pack(1)))
            except BaseException:
                self._socket.close()
                raise
        except BlockingIOError as error:
            raise OSError(errno.EPROTO, "NFLOG does not answer") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> Iterator[Packet]:
        """The packets that wait."""
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # more than the buffer holds: those in it are still to be had
            for kind, _flags, payload in messages(data):
                if kind == NFULNL_MSG_PACKET:
                    packet = parse(attributes(payload[NFGENMSG.size :]).get(NFULA_PAYLOAD, b""))
                    if packet:
                        yield packet

    def _bind(self) -> int:
        taken = OSError(errno.EPERM, os.strerror(errno.EPERM))
        for self.group in range(FIRST_GROUP, FIRST_GROUP + GROUPS):
            try:
                self._configure(attribute(NFULA_CFG_CMD, NFULNL_CFG_CMD_BIND))
                return self.group
            except PermissionError as error:
                taken = error  # what the kernel says of somebody else's group as well
        raise taken

    def _configure(self, what: bytes) -> None:
        self._socket.send(request(NFULNL_MSG_CONFIG, NLM_F_ACK, NFGENMSG.pack(0, 0, self.group) + what))
        problem = refusal(self._socket.recv(65536))
        if problem:
            raise OSError(problem, os.strerror(problem))
