# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink messages and their attributes (netlink(7)): how the kernel is asked, and how it answers."""

from __future__ import annotations

import struct
from typing import Dict, Iterator, Tuple

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x10, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_ERROR = struct.Struct("=i")  # nlmsgerr begins with a negative errno


def messages(data: bytes) -> Iterator[Tuple[int, int, bytes]]:
    """The netlink messages of one datagram as (type, flags, payload)."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, _sequence, _port = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            return
        yield kind, flags, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Dict[int, bytes]:
    """The attributes of a netlink payload by type."""
    found = {}
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size or offset + length > len(data):
            break
        found[kind & 0x3FFF] = data[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def request(kind: int, flags: int, payload: bytes) -> bytes:
    """A netlink message to the kernel."""
    return HEADER.pack(HEADER.size + len(payload), kind, flags | NLM_F_REQUEST, 0, 0) + payload


def attribute(kind: int, payload: bytes) -> bytes:
    """A netlink attribute, filled up to 4 bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) & 3)


def nested(kind: int, attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, attributes)


def refusal(data: bytes) -> int:
    """The errno of the first message in this datagram that says no; 0 if none does."""
    for kind, _flags, payload in messages(data):
        if kind == NLMSG_ERROR and len(payload) >= _ERROR.size:
            (number,) = _ERROR.unpack_from(payload)
            if number:
                return -int(number)
    return 0
