# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What IP looks for in a packet, for tests that make them by hand."""

from __future__ import annotations

import struct

from knockd.packet import TCP


def header_length(packet: bytes) -> int:
    return 4 * (packet[0] & 15) if packet[0] >> 4 == 4 else 40


def half_words(packet: bytes) -> int:
    """The sum of the IPv4 header with end-around carry: 0xFFFF if its checksum is right (RFC 1071)."""
    total = sum(struct.unpack_from("!%dH" % (header_length(packet) // 2), packet))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def summed(packet: bytes) -> bytes:
    """With the right checksum of the IPv4 header; an IPv6 packet as it is."""
    if packet[0] >> 4 != 4:
        return packet
    checksum = ~half_words(packet[:10] + b"\0\0" + packet[12:]) & 0xFFFF
    return packet[:10] + struct.pack("!H", checksum) + packet[12:]


def is_taken_up(packet: bytes) -> bool:
    """Whether checksum, lengths and addresses are such that IP takes up this knock (RFC 1122, 8200, 4291)."""
    if packet[0] >> 4 == 4:
        if half_words(packet) != 0xFFFF:
            return False
        protocol, length = packet[9], int.from_bytes(packet[2:4], "big") - header_length(packet)
    else:
        if packet[8] == 0xFF or bytes(4) in (packet[8:12], packet[24:28]):
            return False
        protocol, length = packet[6], int.from_bytes(packet[4:6], "big")
    shortest = 20 if protocol == TCP else 8
    return shortest <= length <= len(packet) - header_length(packet)
