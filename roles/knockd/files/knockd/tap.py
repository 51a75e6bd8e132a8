# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One AF_PACKET socket (packet(7)): packets of one IP version that the host takes up on one interface, or on any.

It asks for one ethertype, not for ETH_P_ALL: so the kernel hands it a frame where IP gets it, past VLAN, bond and
bridge, and once, not at every device on the way there; and nothing that the host sends. It is of type SOCK_DGRAM:
packets begin with the IP header on every type of link.

Packets wait in the socket's queue, one system call each; or, after `map_ring`, in a ring that is shared with the
kernel (Documentation/networking/packet_mmap.rst). The ring is of version 2: version 3 packs more into the same memory,
but wakes when a block is full or by a timer, where this one wakes for each packet, and its frames have one size, so
that one call takes apart hundreds of them.

Sockets of one interface can be a group (PACKET_FANOUT), in which each packet goes to one of them only: the one that
the group is steered to. That is how a socket takes over from another without losing or doubling a packet.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from itertools import chain
from typing import Iterable, Iterator, Optional

from .bpf import RETURN, pack
from .packet import SNAP, Packet, frames, parse

ETHERTYPES = {4: 0x0800, 6: 0x86DD}  # linux/if_ether.h

SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
# linux/if_packet.h
SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_FANOUT, PACKET_FANOUT_DATA = 5, 6, 10, 18, 22
PACKET_FANOUT_CBPF, PACKET_FANOUT_FLAG_UNIQUEID = 6, 0x2000
TPACKET_V2 = 1

RECEIVE_BUFFER = 16 << 20
"""Bytes; what a flood may queue while the daemon does something else."""
BATCH = 1024
"""Packets that are read in one turn, before other sockets and signals have theirs."""

RING = 8 << 20
"""Bytes of a ring, resident while it exists."""
BLOCK = 64 << 10
FRAME = 256
FRAMES = RING // FRAME
PACKET = 80
"""Where in a frame the packet is: TPACKET2_HDRLEN rounded up to 16, and 16."""
CHUNK = 64
"""Frames that are taken from the ring, and given back, together: a copy of so many stays in the core's first cache."""
STATUS = 0 if sys.byteorder == "little" else 3
"""The byte of a frame that is not 0 when the frame is ours: the lowest of tp_status."""

_FREE = memoryview(bytes(4 * CHUNK)).cast("I")  # TP_STATUS_KERNEL
_FIELDS = {version: frames(version, PACKET, FRAME) for version in ETHERTYPES}
_LINK_IS_GONE = (errno.ENETDOWN, errno.ENXIO, errno.ENODEV)

_libc = ctypes.CDLL(None, use_errno=True)


class _Ring:
    """The memory of a ring; it goes with the last reference, so that an iterator may still be at work."""

    def __init__(self, descriptor: int) -> None:
        self.memory = memoryview(mmap.mmap(descriptor, RING))
        # One item for each frame:
        self.states = self.memory[STATUS::FRAME]
        self.words = self.memory.cast("I")[:: FRAME // 4]
        self.first_bytes = self.memory[PACKET::FRAME]
        self.place = 0
        """The frame that the kernel fills next, or has filled."""


class Tap:
    """A socket that is deaf until `bind`."""

    def __init__(self, interface: int, version: int) -> None:
        """For the interface of this index, 0 for any, and IP version 4 or 6."""
        self._interface = interface
        self._version = version
        self.received = 0
        """Packets that were read."""
        self.drained = True
        """Whether nothing was left when it was read last."""
        # Protocol 0 receives nothing: no packet is queued before the filter is attached and bind names the protocol.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._ring: Optional[_Ring] = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._ring = None
        self._socket.close()

    def filter(self, program: bytes) -> None:
        """Sets or swaps the filter at once, without touching what waits. OSError ENOMEM: net.core.optmem_max."""
        self._program(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def map_ring(self) -> None:
        """Lets packets arrive in a ring; before `bind`."""
        self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        request = struct.pack("IIII", BLOCK, RING // BLOCK, FRAME, FRAMES)  # struct tpacket_req
        self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        self._ring = _Ring(self._socket.fileno())

    @property
    def has_ring(self) -> bool:
        return self._ring is not None

    def bind(self) -> None:
        """Begins to receive, now or as soon as the interface is up."""
        protocol = socket.htons(ETHERTYPES[self._version])
        # struct sockaddr_ll. By index: Python's own bind takes a name, and none stands for all interfaces.
        address = struct.pack("=HHiHBB8x", socket.AF_PACKET, protocol, self._interface, 0, 0, 0)
        if _libc.bind(self._socket.fileno(), address, len(address)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def found(self) -> int:
        """Makes a group of which this is member 0, and tells its number. OSError: the interface is down."""
        self._socket.setsockopt(SOL_PACKET, PACKET_FANOUT, (PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_UNIQUEID) << 16)
        return self._socket.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF

    def join(self, group: int) -> None:
        """Becomes the group's next member. When member 0 of two is closed, the other one is member 0."""
        self._socket.setsockopt(SOL_PACKET, PACKET_FANOUT, PACKET_FANOUT_CBPF << 16 | group)

    def steer(self, member: int) -> None:
        """From now on all packets go to this member; where one was steered to before, it has got all that it will."""
        self._program(SOL_PACKET, PACKET_FANOUT_DATA, pack([(RETURN, 0, 0, member)]))

    def drops(self) -> int:
        """Packets that the kernel dropped since this was asked last, for want of room."""
        _packets, drops = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        return int(drops)

    def packets(self) -> Iterator[Packet]:
        """The packets that wait, at most about BATCH; of a ring as plain tuples. To be read to the end."""
        return self._queued() if self._ring is None else chain.from_iterable(self._framed(self._ring))

    def _queued(self) -> Iterator[Packet]:
        receive = self._socket.recv
        self.drained = False
        try:
            for _turn in range(BATCH):
                packet = parse(receive(SNAP))
                self.received += 1
                if packet is not None:
                    yield packet
        except BlockingIOError:
            self.drained = True
        except OSError as error:
            # Told once when the interface goes down; the kernel re-attaches the socket when it comes up.
            if error.errno not in _LINK_IS_GONE:
                raise
            self.drained = True

    def _framed(self, ring: _Ring) -> Iterator[Iterable[Packet]]:
        fields = _FIELDS[self._version]
        taken = 0
        self.drained = False
        while taken < BATCH:
            place, end = ring.place, min(ring.place + CHUNK, FRAMES)
            # The states first, for many frames: what is in a frame is read long after its state was seen.
            ready = ring.states[place:end].tobytes().find(0)
            if ready < 0:
                ready = end - place
            if not ready:
                # The news that the interface went down (see above) would keep us awake.
                self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self.drained = True
                return
            end = place + ready
            if self._version == 4 and ring.first_bytes[place:end].tobytes().count(0x45) < ready:
                yield self._one_by_one(ring, place, end)  # some have IPv4 options
            else:
                # Copied at once: another core has written them, and byte by byte each cache line is waited for.
                yield fields.iter_unpack(ring.memory[place * FRAME : end * FRAME].tobytes())  # type: ignore[misc]
            ring.words[place:end] = _FREE[:ready]
            ring.place = end % FRAMES
            self.received += ready
            taken += ready

    @staticmethod
    def _one_by_one(ring: _Ring, place: int, end: int) -> Iterator[Packet]:
        for start in range(place * FRAME + PACKET, end * FRAME + PACKET, FRAME):
            packet = parse(ring.memory[start : start + SNAP])
            if packet is not None:
                yield packet

    def _program(self, level: int, option: int, program: bytes) -> None:
        code = ctypes.create_string_buffer(program, len(program))
        fprog = struct.pack("HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
        self._socket.setsockopt(level, option, fprog)
