# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of any source, sent as fast as Python can: sweeps over ports, floods of spoofed knocks, a forger's strays."""

from __future__ import annotations

import socket
import struct
import time
from typing import Iterable, Iterator

from ..ipv4 import summed
from .lab import SERVER, SERVER6, SYN, Lab


def syns(lab: Lab, packets: Iterable[tuple[str, int]]) -> Iterator[bytes]:
    """An Ethernet frame for each source and port: the SYN of a new connection to the server, interface eth0."""
    ethernet = lab.mac("eth0") + b"\2\0\0\0\0\1"
    heads: dict[str, tuple[bytes, int]] = {}
    for source, port in packets:
        if source not in heads:
            heads[source] = _head(source)
        head, total = heads[source]
        total += 40000 + port + 1 + (5 << 12 | SYN) + 1024
        checksum = ~(total % 0xFFFF) & 0xFFFF  # RFC 1071: a sum with end-around carry
        yield ethernet + head + struct.pack("!HHIIHHHH", 40000, port, 1, 0, 5 << 12 | SYN, 1024, checksum, 0)


def _head(source: str) -> tuple[bytes, int]:
    """Ethernet's type and the IP header, and what its addresses add to tcp's checksum."""
    if ":" in source:
        addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, SERVER6)
        head = b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, 20, 6, 64) + addresses
        return head, sum(struct.unpack("!16H", addresses)) + 6 + 20
    addresses = socket.inet_aton(source) + socket.inet_aton(SERVER)
    head = b"\x08\x00" + summed(struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0x4000, 64, 6, 0) + addresses)
    return head, sum(struct.unpack("!4H", addresses)) + 6 + 20


def send(lab: Lab, frames: Iterable[bytes], per_second: float = 0) -> None:
    """Sends them from the client's end of the cable, at full speed or at this rate."""
    with lab.client:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with wire:
        wire.bind(("eth0", 0))
        start = time.monotonic()
        for number, frame in enumerate(list(frames)):
            if per_second:
                time.sleep(max(0.0, start + number / per_second - time.monotonic()))
            try:
                wire.send(frame)
            except OSError:  # the queue of the interface is full
                time.sleep(0.001)
                wire.send(frame)
