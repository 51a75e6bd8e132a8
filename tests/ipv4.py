# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checksum of an IPv4 header, for tests that make packets by hand (RFC 1071)."""

from __future__ import annotations

import struct


def header_length(packet: bytes) -> int:
    return 4 * (packet[0] & 15) if packet[0] >> 4 == 4 else 40


def half_words(packet: bytes) -> int:
    """The sum of the IPv4 header with end-around carry: 0xFFFF if its checksum is right."""
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
