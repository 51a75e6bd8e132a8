# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes to a packet: reads the IP and transport headers of a possible knock.

Reads what the filter of bpf.py lets pass: whole packets or first fragments of IPv4, with or without options, and IPv6
whose first header is tcp or udp. IPv6 extension headers are not walked: no client sends a knock behind one. Lengths
are the filter's to judge, and so is the checksum, but for IPv4 headers with options.
"""

from __future__ import annotations

import socket
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

TCP, UDP = 6, 17  # IANA protocol numbers
SNAP = 80
"""Bytes of a packet that are worth having: the longest IPv4 header, 60, and a tcp header without options."""

_IPV4 = Struct("!6xHxB2x4s4s2xH")  # RFC 791, 3.1: fragment offset, protocol, addresses; then, without options, the port
_IPV6 = Struct("!6xBx16s16s2xH")  # RFC 8200, 3: next header, addresses; then the port
_PORT = Struct("!2xH")  # RFC 9293, 3.1 and RFC 768
_FRAGMENT_OFFSET = 0x1FFF
_TCP_FLAGS = 13  # where the flags are in a tcp header


class Packet(NamedTuple):
    """What the tracker needs to know of a packet, in the order of the wire; addresses are packed (4 or 16 bytes)."""

    protocol: int
    """TCP or UDP."""
    source: bytes
    destination: bytes
    port: int
    """The destination port."""
    flags: int
    """The flags byte of the tcp header; means nothing for udp."""


_new = tuple.__new__  # a third of the time of Packet(...), which goes through a Python function


def frames(version: int, offset: int, size: int) -> Struct:
    """Lay out the fields of a Packet in frames of `size` bytes with the packet at `offset`, for Struct.iter_unpack.

    For packets that the filter has let pass, so that nothing is left to be looked at: IPv6, or IPv4 without options.
    """
    # The fields are the same as above, with the byte that holds a tcp header's flags.
    head, length = ("9xB2x4s4s2xH9xB", 34) if version == 4 else ("6xBx16s16s2xH9xB", 54)
    return Struct("!%dx%s%dx" % (offset, head, size - offset - length))


def parse(data: bytes | memoryview) -> Packet | None:
    """Read the packet that begins with its IP header at data[0]; None if it is no tcp or udp, cut short or damaged."""
    try:
        first = data[0]
        if first >> 4 == 4:
            fragment, protocol, source, destination, port = _IPV4.unpack_from(data)
            if fragment & _FRAGMENT_OFFSET:
                return None
            transport = 20
            if first != 0x45:
                transport = (first & 15) * 4
                if transport < 20:
                    return None
                (port,) = _PORT.unpack_from(data, transport)
                # The sum of half-words, with end-around carry (RFC 1071): 0x10000 is 1 modulo 0xFFFF.
                if int.from_bytes(data[:transport], "big") % 0xFFFF:
                    return None
        elif first >> 4 == 6:
            protocol, source, destination, port = _IPV6.unpack_from(data)
            transport = 40
        else:
            return None
        if protocol == TCP:
            flags = data[transport + _TCP_FLAGS]
        elif protocol == UDP:
            flags = 0
        else:
            return None
    except (IndexError, StructError):
        return None
    return _new(Packet, (protocol, source, destination, port, flags))


def text(address: bytes) -> str:
    """A packed address as people write it."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
