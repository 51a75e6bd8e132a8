# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interfaces to packets: AF_PACKET sockets whose kernel filter lets nothing pass but knocks."""

from __future__ import annotations

import ctypes
import errno
import os
import selectors
import socket
import struct
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple

from .bpf import SNAP
from .links import Links

ETH_P_ALL = 0x0003  # linux/if_ether.h
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23  # linux/if_packet.h, kernel 4.20
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h

RECEIVE_BUFFER = 16 << 20
"""Bytes; what a flood may queue while the daemon does something else."""
BATCH = 4096
"""Packets that are read from one interface before others have their turn."""

_libc = ctypes.CDLL(None, use_errno=True)


class CaptureError(Exception):
    """The kernel does not let us listen; the message says why."""


class _Tap(NamedTuple):
    interface: int
    socket: socket.socket


class Capture:
    """Listens on the interfaces that exist now and takes up the others when they appear."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        program: bytes,
        on_packets: Callable[[socket.socket], None],
        say: Callable[[str], None],
    ) -> None:
        self._selector = selector
        self._program = program
        self._on_packets = on_packets
        self._say = say
        self._taps: Dict[str, _Tap] = {}
        self._dropped = 0

    def follow(self, names: Iterable[str], links: Links) -> None:
        """Makes the sockets agree with the interfaces that `links` knows now."""
        wanted = {name: links.index(name) for name in names}
        for name, tap in list(self._taps.items()):
            # A new interface of the old name has another index: the old socket stays deaf.
            if wanted.get(name) != tap.interface:
                self._close(name)
                if name in wanted:
                    self._say("%s: gone, waiting for it to come back" % name)
        for name, index in wanted.items():
            if index is not None and name not in self._taps:
                self._open(name, index)

    def listening(self) -> List[str]:
        """The names of the interfaces that are listened on now."""
        return sorted(self._taps)

    def drops(self) -> int:
        """How many packets the kernel dropped since the start, because too many waited."""
        for tap in self._taps.values():  # the kernel counts anew each time that it is asked (packet(7))
            self._dropped += struct.unpack("II", tap.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        return self._dropped

    def set_filter(self, program: bytes) -> None:
        """Swaps the kernel filter; packets that are queued already stay."""
        self._program = program
        for tap in self._taps.values():
            self._attach_filter(tap.socket)

    def close(self) -> None:
        for name in list(self._taps):
            self._close(name)

    @staticmethod
    def packets(tap: socket.socket) -> Iterator[bytes]:
        """The packets that wait in this socket, from their IP header on, at most BATCH."""
        receive = tap.recv
        try:
            for _turn in range(BATCH):
                yield receive(SNAP)
        except BlockingIOError:
            pass
        except OSError as error:
            # Told once when the interface goes down; the kernel re-attaches the socket when it comes up.
            if error.errno not in (errno.ENETDOWN, errno.ENXIO, errno.ENODEV):
                raise

    def _open(self, name: str, index: int) -> None:
        # Protocol 0 receives nothing: no packet is queued before the filter is attached and bind names the protocol.
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            try:
                tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            except PermissionError:
                tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            try:
                tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            except OSError:
                pass  # an older kernel: the filter drops them
            self._attach_filter(tap)
            _bind(tap, index)
        except OSError as error:
            tap.close()
            if error.errno in (errno.ENODEV, errno.ENXIO):
                return  # it went away meanwhile; links will tell when it is back
            raise CaptureError("cannot listen on %s: %s" % (name, error.strerror)) from error
        self._taps[name] = _Tap(index, tap)
        self._selector.register(tap, selectors.EVENT_READ, self._on_packets)

    def _close(self, name: str) -> None:
        tap = self._taps.pop(name)
        self._selector.unregister(tap.socket)
        tap.socket.close()

    def _attach_filter(self, tap: socket.socket) -> None:
        code = ctypes.create_string_buffer(self._program, len(self._program))
        fprog = struct.pack("HP", len(self._program) // 8, ctypes.addressof(code))  # struct sock_fprog
        try:
            tap.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
        except OSError as error:
            cure = "; raise net.core.optmem_max" if error.errno == errno.ENOMEM else ""
            raise CaptureError("the kernel refuses the packet filter: %s%s" % (error.strerror, cure)) from error


def _bind(tap: socket.socket, index: int) -> None:
    """bind(2) by index, 0 for all interfaces: Python's own takes a name, and none stands for all."""
    # struct sockaddr_ll
    address = struct.pack("=HHiHBB8x", socket.AF_PACKET, socket.htons(ETH_P_ALL), index, 0, 0, 0)
    if _libc.bind(tap.fileno(), address, len(address)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
