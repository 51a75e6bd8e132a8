# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doors to a filter program: the kernel hands over only packets to the doors' ports, the rest costs us nothing.

The program is classic BPF (linux/filter.h) for an AF_PACKET socket of type SOCK_DGRAM, where byte 0 is the first of
the IP header. It lets pass frames for this host (not what we send, nor what a bridge floods by), tcp and udp, first
fragments, whole headers, and destination ports of the doors: up to MAX_RANGES separate ports, or runs of neighbouring
ports, exactly. Beyond that, or where the kernel has no room for so many, the nearest ports are joined to ranges: more
passes than needed, never less, and the tracker looks anyway.

What IP itself drops before netfilter sees it does not pass: a wrong checksum of the IPv4 header, lengths that the frame
does not hold, IPv6 from a multicast address, or from or to ::1 on a link. Otherwise a scanner on the same link could
send knocks that are never counted as strays. (IPv4 options come in all lengths; packet.py sums their headers.)

Ports are found by a binary search tree with leaves of LEAF ranges in a row: a row of plain comparisons is what the
kernel stores in the fewest bytes, so that MAX_RANGES ranges stay below Debian 12's net.core.optmem_max of 20,480
bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from struct import Struct

from .model import Door
from .packet import SNAP, TCP, UDP

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, constant: one struct sock_filter."""
Range = tuple[int, int]
"""First and last port, both included."""

MAX_RANGES = 1000
LEAF = 32

# linux/bpf_common.h, linux/filter.h
LOAD_WORD, LOAD_HALF, LOAD_BYTE, LOAD_HALF_AFTER_X = 0x20, 0x28, 0x30, 0x48
LOAD_X, LOAD_X_HEADER_LENGTH, LOAD_X_PACKET_LENGTH = 0x01, 0xB1, 0x81
STORE, LOAD_STORED, A_TO_X, X_TO_A = 0x02, 0x60, 0x07, 0x87
ADD, ADD_X, SUBTRACT_X, MODULO, SHIFT_RIGHT = 0x04, 0x0C, 0x1C, 0x94, 0x74
JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, JUMP_BITS = 0x05, 0x15, 0x25, 0x35, 0x45
JUMP_GREATER_X, JUMP_GREATER_EQUAL_X = 0x2D, 0x3D
RETURN = 0x06
PACKET_TYPE, INTERFACE = 0xFFFFF000 + 4, 0xFFFFF000 + 8  # SKF_AD_OFF + SKF_AD_PKTTYPE, SKF_AD_IFINDEX
LINK_TYPE = 0xFFFFF000 + 28  # SKF_AD_HATYPE
LOOPBACK = 772  # linux/if_arp.h, ARPHRD_LOOPBACK
PACKET_HOST = 0  # linux/if_packet.h
LONGEST_JUMP = 255  # of a conditional jump

_PASS: Instruction = (RETURN, 0, 0, SNAP)
_DROP: Instruction = (RETURN, 0, 0, 0)
_SOCK_FILTER = Struct("=HBBI")


def program(
    doors: Iterable[Door], version: int, elsewhere: Collection[int] = (), most: int = MAX_RANGES
) -> list[Instruction]:
    """Make the program that lets packets of this IP version to these doors' ports pass, cut after SNAP bytes.

    Frames that the host takes up on one of the interfaces `elsewhere` (their indices) do not pass. At most `most`
    ranges of ports are told apart.
    """
    taken_up: list[Instruction] = [(LOAD_WORD, 0, 0, INTERFACE)] if elsewhere else []
    for index in elsewhere:
        taken_up += _must_not(JUMP_EQUAL, index)
    ranges = _joined(_ranges(doors), most)
    tcp, udp = [*_port(20), *_tree(ranges["tcp"])], [*_port(8), *_tree(ranges["udp"])]
    return [
        (LOAD_WORD, 0, 0, PACKET_TYPE),
        *_must(JUMP_EQUAL, PACKET_HOST),
        *taken_up,
        (LOAD_BYTE, 0, 0, 0),
        (SHIFT_RIGHT, 0, 0, 4),
        *_must(JUMP_EQUAL, version),
        *(_IPV4 if version == 4 else _IPV6),
        # A is the protocol, X says where its header begins, and what is stored how long it and its data are.
        (JUMP_EQUAL, 1, 0, TCP),
        (JUMP, 0, 0, len(tcp)),
        *tcp,
        *_must(JUMP_EQUAL, UDP),
        *udp,
    ]


def programs(doors: Collection[Door], version: int, elsewhere: Collection[int] = ()) -> Iterator[list[Instruction]]:
    """Make programs from exact to coarse, for a kernel that has no room for the first: each passes what it must."""
    most = MAX_RANGES
    while most:
        yield program(doors, version, elsewhere, most)
        most //= 2


def pack(instructions: Iterable[Instruction]) -> bytes:
    """Lay the program out as an array of struct sock_filter, for SO_ATTACH_FILTER."""
    return b"".join(_SOCK_FILTER.pack(*instruction) for instruction in instructions)


def _ranges(doors: Iterable[Door]) -> dict[str, list[Range]]:
    """Find the runs of neighbouring ports, sorted, for each protocol."""
    ports: dict[str, set[int]] = {"tcp": set(), "udp": set()}
    for door in doors:
        for knock in door.sequence:
            ports[knock.protocol].add(knock.port)
    runs: dict[str, list[Range]] = {}
    for protocol, found in ports.items():
        runs[protocol] = []
        for port in sorted(found):
            if runs[protocol] and runs[protocol][-1][1] == port - 1:
                runs[protocol][-1] = (runs[protocol][-1][0], port)
            else:
                runs[protocol].append((port, port))
    return runs


def _must(code: int, constant: int = 0) -> list[Instruction]:
    """Drop the packet unless A compares."""
    return [(code, 1, 0, constant), _DROP]


def _must_not(code: int, constant: int = 0) -> list[Instruction]:
    """Drop the packet if A compares."""
    return [(code, 0, 1, constant), _DROP]


def _port(header: int) -> list[Instruction]:
    """Load the destination port, if there is room for a header of so many bytes."""
    return [(LOAD_STORED, 0, 0, 0), *_must(JUMP_GREATER_EQUAL, header), (LOAD_HALF_AFTER_X, 0, 0, 2)]


# RFC 1071: the half-words, summed with end-around carry, are 0xFFFF. That carry is what a remainder leaves out: 0x10000
# is 1 modulo 0xFFFF. So words can be summed as well, which are fewer: each load counts a dozen times in the kernel.
_SUM: list[Instruction] = [
    (LOAD_X, 0, 0, 0),
    *(
        step
        for place in range(0, 20, 4)
        for step in ((LOAD_WORD, 0, 0, place), (MODULO, 0, 0, 0xFFFF), (ADD_X, 0, 0, 0), (A_TO_X, 0, 0, 0))
    ),
    (MODULO, 0, 0, 0xFFFF),
    *_must(JUMP_EQUAL, 0),
]
_IPV4: list[Instruction] = [
    (LOAD_BYTE, 0, 0, 0),
    (JUMP_EQUAL, 0, len(_SUM), 0x45),
    *_SUM,
    (LOAD_HALF, 0, 0, 6),
    *_must_not(JUMP_BITS, 0x1FFF),  # a fragment offset
    (LOAD_HALF, 0, 0, 2),
    (LOAD_X_PACKET_LENGTH, 0, 0, 0),
    *_must_not(JUMP_GREATER_X),
    (LOAD_X_HEADER_LENGTH, 0, 0, 0),
    *_must(JUMP_GREATER_EQUAL_X),
    (SUBTRACT_X, 0, 0, 0),
    (STORE, 0, 0, 0),
    (X_TO_A, 0, 0, 0),
    *_must(JUMP_GREATER_EQUAL, 20),
    (LOAD_BYTE, 0, 0, 9),
]
_IPV6: list[Instruction] = [
    (LOAD_HALF, 0, 0, 4),
    (STORE, 0, 0, 0),
    (ADD, 0, 0, 40),
    (LOAD_X_PACKET_LENGTH, 0, 0, 0),
    *_must_not(JUMP_GREATER_X),
    (LOAD_WORD, 0, 0, 8),
    *_must_not(JUMP_GREATER_EQUAL, 0xFF000000),  # from a multicast address
    (JUMP_EQUAL, 2, 0, 0),  # from or to ::1, and nothing else that anybody has begins like this:
    (LOAD_WORD, 0, 0, 24),
    (JUMP_EQUAL, 0, 3, 0),
    (LOAD_WORD, 0, 0, LINK_TYPE),
    *_must(JUMP_EQUAL, LOOPBACK),
    (LOAD_X, 0, 0, 40),
    (LOAD_BYTE, 0, 0, 6),
]


def _joined(ranges: dict[str, list[Range]], most: int) -> dict[str, list[Range]]:
    """Join ranges across the smallest gaps until at most `most` are left, or one for each protocol."""
    surplus = sum(map(len, ranges.values())) - most
    if surplus <= 0:
        return ranges
    gaps = sorted(
        (found[place][0] - found[place - 1][1], protocol, place)
        for protocol, found in ranges.items()
        for place in range(1, len(found))
    )
    filled = {(protocol, place) for _gap, protocol, place in gaps[:surplus]}
    joined: dict[str, list[Range]] = {}
    for protocol, found in ranges.items():
        joined[protocol] = []
        for place, (first, last) in enumerate(found):
            if (protocol, place) in filled:
                first = joined[protocol].pop()[0]
            joined[protocol].append((first, last))
    return joined


def _tree(ranges: list[Range]) -> list[Instruction]:
    """Search the port in A among sorted ranges; every path ends in a return."""
    if len(ranges) <= LEAF:
        return _leaf(ranges)
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    border = ranges[middle][0]
    if len(low) <= LONGEST_JUMP:
        return [(JUMP_GREATER_EQUAL, len(low), 0, border), *low, *high]
    return [(JUMP_GREATER_EQUAL, 0, 1, border), (JUMP, 0, 0, len(low)), *low, *high]


def _leaf(ranges: list[Range]) -> list[Instruction]:
    """Compare the port in A with a few sorted ranges, one after the other."""
    code: list[Instruction] = [_DROP, _PASS]
    for first, last in reversed(ranges):
        passing = len(code) - 1  # how far away _PASS is for an instruction put in front of what is there
        if first == last:
            code.insert(0, (JUMP_EQUAL, passing, 0, first))
        else:  # above: the next range; within: pass; below: the ranges that follow do not fit either
            code.insert(0, (JUMP_GREATER_EQUAL, passing, 0, first))
            code.insert(0, (JUMP_GREATER, 1, 0, last))
    return code
