# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets and the kernel's filter: both see the same knocks, and garbage is nothing to either."""

from __future__ import annotations

import ctypes
import random
import socket
import struct
import sys
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knockd import bpf
from knockd.model import Door
from knockd.packet import SNAP, TCP, UDP, Packet, frames, parse
from knockd.sequence import Knock

from ...ipv4 import header_length, is_taken_up, summed

SYN = 0x02
V4, V6 = bytes((198, 18, 0, 1)), socket.inet_pton(socket.AF_INET6, "fd00:5e5a::1")
ETHERNET = 1  # linux/if_arp.h
V4_ME, V6_ME = bytes((198, 18, 0, 2)), socket.inet_pton(socket.AF_INET6, "fd00:5e5a::2")


def transport(protocol: int, port: int, flags: int = SYN) -> bytes:
    if protocol == TCP:
        return struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, flags, 64240, 0, 0)
    return struct.pack("!HHHH", 40000, port, 9, 0) + b"x"


def ipv4(protocol: int, port: int, flags: int = SYN, options: int = 0, fragment: int = 0) -> bytes:
    """An IPv4 packet with `options` words of options and the given fragment field."""
    rest = transport(protocol, port, flags)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + options, 0, 20 + 4 * options + len(rest), 7, fragment, 64, protocol, 0, V4, V4_ME
    )
    return summed(header + b"\x01" * 4 * options + rest)


def with_length(packet: bytes, length: int) -> bytes:
    """With an IP header that says that so many bytes follow it; the checksum is right."""
    if packet[0] >> 4 == 4:
        return summed(packet[:2] + struct.pack("!H", header_length(packet) + length) + packet[4:])
    return packet[:4] + struct.pack("!H", length) + packet[6:]


def ipv6(protocol: int, port: int, flags: int = SYN, source: bytes = V6, destination: bytes = V6_ME) -> bytes:
    rest = transport(protocol, port, flags)
    return struct.pack("!IHBB16s16s", 6 << 28, len(rest), protocol, 64, source, destination) + rest


def doors(*knocks: tuple[int, str]) -> list[Door]:
    return [Door("d", tuple(Knock(port, protocol) for port, protocol in knocks))]


class Filter:
    """The two programs for these doors; as in the kernel, each gets what its ethertype says is of its version."""

    def __init__(self, doors: list[Door], elsewhere: Sequence[int] = ()) -> None:
        self.programs = {version: bpf.program(doors, version, elsewhere) for version in (4, 6)}

    def __call__(
        self, data: bytes, packet_type: int = bpf.PACKET_HOST, interface: int = 2, link: int = ETHERNET
    ) -> int:
        """The bytes that pass, 0 for none; of garbage the more that any of the two lets pass."""
        return max(run(program, data, packet_type, interface, link) for program in self.programs.values())


def run(
    program: Sequence[bpf.Instruction],
    data: bytes,
    packet_type: int = bpf.PACKET_HOST,
    interface: int = 2,
    link: int = ETHERNET,
) -> int:
    """Interpret the program as Documentation/networking/filter.rst says."""
    a = x = stored = place = 0
    extensions = {bpf.PACKET_TYPE: packet_type, bpf.INTERFACE: interface, bpf.LINK_TYPE: link}

    def load(offset: int, size: int) -> int:
        if offset + size > len(data):
            raise IndexError
        return int.from_bytes(data[offset : offset + size], "big")

    jumps: dict[int, Callable[[int], bool]] = {
        bpf.JUMP_EQUAL: lambda k: a == k,
        bpf.JUMP_GREATER: lambda k: a > k,
        bpf.JUMP_GREATER_EQUAL: lambda k: a >= k,
        bpf.JUMP_BITS: lambda k: bool(a & k),
        bpf.JUMP_GREATER_X: lambda _k: a > x,
        bpf.JUMP_GREATER_EQUAL_X: lambda _k: a >= x,
    }
    try:
        while True:
            code, yes, no, k = program[place]
            place += 1
            if code == bpf.RETURN:
                return k
            if code in jumps:
                place += yes if jumps[code](k) else no
            elif code == bpf.JUMP:
                place += k
            elif code == bpf.LOAD_WORD:
                a = extensions[k] if k in extensions else load(k, 4)
            elif code == bpf.LOAD_HALF:
                a = load(k, 2)
            elif code == bpf.LOAD_BYTE:
                a = load(k, 1)
            elif code == bpf.LOAD_HALF_AFTER_X:
                a = load(x + k, 2)
            elif code == bpf.LOAD_X:
                x = k
            elif code == bpf.LOAD_X_HEADER_LENGTH:
                x = 4 * (load(k, 1) & 15)
            elif code == bpf.LOAD_X_PACKET_LENGTH:
                x = len(data)
            elif code == bpf.STORE:
                stored = a
            elif code == bpf.LOAD_STORED:
                a = stored
            elif code == bpf.A_TO_X:
                x = a
            elif code == bpf.X_TO_A:
                a = x
            elif code in (bpf.ADD, bpf.ADD_X):
                a = (a + (k if code == bpf.ADD else x)) & 0xFFFFFFFF
            elif code == bpf.SUBTRACT_X:
                a = (a - x) & 0xFFFFFFFF
            elif code == bpf.MODULO:
                a %= k
            elif code == bpf.SHIFT_RIGHT:
                a >>= k
            else:
                raise AssertionError(f"unknown instruction {code:#x}")
    except IndexError:
        return 0  # a load beyond the packet ends the program


# Packets


@pytest.mark.parametrize("options", range(11))
def test_an_ipv4_knock_is_read_with_any_options(options: int) -> None:
    assert parse(ipv4(TCP, 20113, SYN, options)) == Packet(TCP, V4, V4_ME, 20113, SYN)
    assert parse(ipv4(UDP, 11873, options=options)) == Packet(UDP, V4, V4_ME, 11873, 0)


def test_an_ipv6_knock_is_read() -> None:
    assert parse(ipv6(TCP, 20113, 0x12)) == Packet(TCP, V6, V6_ME, 20113, 0x12)
    assert parse(memoryview(ipv6(UDP, 11873))) == Packet(UDP, V6, V6_ME, 11873, 0)


def test_a_first_fragment_counts_and_a_later_one_does_not() -> None:
    assert parse(ipv4(UDP, 11873, fragment=0x2000)) is not None
    assert parse(ipv4(UDP, 11873, fragment=0x4000)) is not None  # do not fragment
    assert parse(ipv4(UDP, 11873, fragment=0x2001)) is None


@pytest.mark.parametrize("data", [ipv4(TCP, 1), ipv4(TCP, 1, options=10), ipv4(UDP, 1), ipv6(TCP, 1), ipv6(UDP, 1)])
def test_a_packet_that_is_cut_short_anywhere_is_nothing_or_itself(data: bytes) -> None:
    for length in range(len(data)):
        assert parse(data[:length]) in (None, parse(data))


@pytest.mark.parametrize("options", range(1, 11))
def test_an_ipv4_header_with_options_and_a_wrong_checksum_is_nothing(options: int) -> None:
    data = ipv4(TCP, 20113, options=options)
    for place in range(1, header_length(data)):
        assert parse(damaged(data, place)) is None


def damaged(data: bytes, place: int) -> bytes:
    """With one bit of another value."""
    return data[:place] + bytes((data[place] ^ 0x10,)) + data[place + 1 :]


@given(st.binary(max_size=100))
def test_garbage_is_nothing_and_never_an_exception(data: bytes) -> None:
    packet = parse(data)
    assert packet is None or (packet.protocol in (TCP, UDP) and 0 <= packet.port <= 65535)


@given(st.sampled_from([ipv4(TCP, 1), ipv4(UDP, 1, options=3), ipv6(TCP, 1)]), st.data())
def test_a_damaged_packet_never_raises(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        changed[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    parse(bytes(changed))


# The filter

PORTS = st.lists(st.tuples(st.integers(1, 65535), st.sampled_from(("tcp", "udp"))), max_size=60)
EVERY_PORT = Filter(doors(*((port, word) for port in range(1, 65536) for word in ("tcp", "udp"))))


@given(PORTS, st.data())
def test_the_filter_passes_exactly_the_knocks_of_the_doors(ports: list[tuple[int, str]], draw: st.DataObject) -> None:
    passes = Filter(doors(*ports))
    near = [port + step for port, _ in ports[:6] for step in (-1, 0, 1) if 0 <= port + step <= 65535]
    for port in near + draw.draw(st.lists(st.integers(0, 65535), max_size=3)):
        for protocol, word in ((TCP, "tcp"), (UDP, "udp")):
            for data in (ipv4(protocol, port), ipv4(protocol, port, options=10), ipv6(protocol, port)):
                assert bool(passes(data)) == ((port, word) in ports)


@given(st.binary(max_size=80), st.integers(0, 80), st.booleans(), st.data())
def test_the_filter_never_drops_what_is_a_knock(data: bytes, length: int, is_summed: bool, draw: st.DataObject) -> None:
    data = bytes((draw.draw(st.sampled_from((0x45, 0x46, 0x4F, 0x44, 0x60, 0x6F, 0x00, 0x52))),)) + data
    if len(data) > header_length(data) >= 20 and is_summed:
        data = with_length(data, min(length, len(data) - header_length(data)))
    packet = parse(data)
    if packet and packet.port and is_taken_up(data):
        word = "tcp" if packet.protocol == TCP else "udp"
        assert Filter(doors((packet.port, word)))(data) >= min(len(data), 74)
        assert Filter(doors((packet.port ^ 1 or 1, word)))(data) == 0 or packet.port == 1
    elif data[0] not in (0x46, 0x4F):  # with options, which pass, and which parse sums
        assert EVERY_PORT(data) == 0


@given(st.binary(min_size=80, max_size=80), st.sampled_from((0x45, 0x60)), st.integers(20, 40))
def test_what_passes_is_read_from_a_frame_as_it_is_alone(data: bytes, first: int, length: int) -> None:
    data = bytes((first,)) + data[1:6] + draw_protocol(data) + b"\0" + data[8:9] + draw_protocol(data) + data[10:]
    data = with_length(data, length)
    if EVERY_PORT(data):
        layout = frames(first >> 4, 80, 256)
        (fields,) = layout.iter_unpack(bytes(80) + data + bytes(96))
        packet = parse(data)
        assert packet is not None
        assert fields[:4] == packet[:4]
        assert packet.protocol == UDP or fields == packet


def draw_protocol(data: bytes) -> bytes:
    """Most often one that passes."""
    return bytes((TCP, UDP, data[0])[data[1] % 3 :][:1])


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_wrong_checksum_does_not_pass(protocol: int) -> None:
    passes = Filter(doors((20113, "tcp"), (20113, "udp")))
    data = ipv4(protocol, 20113)
    assert passes(data)
    assert not any(passes(damaged(data, place)) for place in range(20))


@pytest.mark.parametrize("checksum", [0x0000, 0xFFFF])
def test_both_zeros_of_a_checksum_are_one(checksum: int) -> None:
    """Where the rest of the header makes up 0xFFFF; so does the kernel."""
    data = ipv4(TCP, 20113)
    identification = (int.from_bytes(data[10:12], "big") + int.from_bytes(data[4:6], "big")) % 0xFFFF
    data = data[:4] + struct.pack("!H", identification) + data[6:10] + struct.pack("!H", checksum) + data[12:]
    assert Filter(doors((20113, "tcp")))(data)
    assert not Filter(doors((20113, "tcp")))(damaged(data, 5))


SHORTEST = {TCP: 20, UDP: 8}


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("options", [None, 0, 1, 10])
def test_a_length_that_the_frame_does_not_hold_does_not_pass(options: int | None, protocol: int) -> None:
    passes = Filter(doors((20113, "tcp"), (20113, "udp")))
    data = ipv6(protocol, 20113) if options is None else ipv4(protocol, 20113, options=options)
    there = len(data) - header_length(data)
    padded = data + bytes(6)  # Ethernet's, up to 60 bytes
    for length in range(-header_length(data) if options is not None else 0, there + 20):
        assert bool(passes(with_length(data, length))) == (SHORTEST[protocol] <= length <= there)
        assert bool(passes(with_length(padded, length))) == (SHORTEST[protocol] <= length <= there + 6)
    assert not passes(with_length(data, 0xFFFF - (0 if options is None else header_length(data))))


@pytest.mark.parametrize(
    ("source", "destination", "link", "is_heard"),
    [
        ("::1", "fd00:5e5a::2", ETHERNET, False),
        ("fd00:5e5a::1", "::1", ETHERNET, False),
        ("::1", "::1", ETHERNET, False),
        ("::1", "::1", bpf.LOOPBACK, True),
        ("::1", "fd00:5e5a::2", bpf.LOOPBACK, True),
        ("fd00:5e5a::1", "::1", bpf.LOOPBACK, True),
        ("ff02::1", "fd00:5e5a::2", ETHERNET, False),
        ("ff02::1", "fd00:5e5a::2", bpf.LOOPBACK, False),
        ("fe80::1", "fe80::2", ETHERNET, True),
        ("64:ff9b::1", "fd00:5e5a::2", ETHERNET, True),
    ],
)
def test_addresses_that_ipv6_does_not_take_do_not_pass(
    source: str, destination: str, link: int, is_heard: bool
) -> None:
    addresses = [socket.inet_pton(socket.AF_INET6, address) for address in (source, destination)]
    passes = Filter(doors((20113, "tcp")))
    assert bool(passes(ipv6(TCP, 20113, SYN, *addresses), link=link)) == is_heard


def test_frames_that_the_host_takes_up_elsewhere_do_not_pass() -> None:
    passes = Filter(doors((20113, "tcp")), elsewhere=(5, 7))
    assert [bool(passes(ipv4(TCP, 20113), interface=index)) for index in (2, 5, 6, 7)] == [True, False, True, False]


@pytest.mark.parametrize("packet_type", [1, 2, 3, 4, 5, 6])  # broadcast, multicast, others', outgoing, loopback, user
def test_frames_that_are_not_for_this_host_do_not_pass(packet_type: int) -> None:
    passes = Filter(doors((20113, "tcp")))
    assert passes(ipv4(TCP, 20113)) == SNAP
    assert passes(ipv4(TCP, 20113), packet_type) == 0


def test_what_passes_is_long_enough_for_all_that_is_read() -> None:
    longest = with_length(ipv4(TCP, 20113, options=10) + bytes(1000), 1020)
    assert parse(longest[: Filter(doors((20113, "tcp")))(longest)]) == parse(longest)


def test_no_doors_let_nothing_pass() -> None:
    assert Filter([])(ipv4(TCP, 20113)) == 0
    assert Filter([Door("used up", ())])(ipv6(UDP, 20113)) == 0


def test_a_thousand_ports_are_filtered_exactly() -> None:
    ports = random.Random(1).sample(range(1, 65536), 1000)
    tcp, udp = set(ports[:600]), set(ports[600:])
    passes = Filter(doors(*((port, "tcp") for port in tcp), *((port, "udp") for port in udp)))
    assert all(len(program) <= 4096 for program in passes.programs.values())  # BPF_MAXINSNS
    for port in {*ports, *range(0, 65536, 64)}:
        assert bool(passes(ipv4(TCP, port))) == (port in tcp)
        assert bool(passes(ipv6(UDP, port))) == (port in udp)


def test_ports_in_a_row_cost_one_range() -> None:
    passes = Filter(doors(*((port, "udp") for port in range(1024, 60000))))
    assert len(passes.programs[6]) == len(bpf.program([], 6)) + 2
    assert [bool(passes(ipv6(UDP, port))) for port in (1023, 1024, 59999, 60000)] == [False, True, True, False]


def test_beyond_what_fits_more_passes_and_nothing_is_lost() -> None:
    ports = random.Random(2).sample(range(1, 65536), 5000)
    passes = Filter(doors(*((port, "tcp") for port in ports)))
    assert all(len(program) <= 4096 for program in passes.programs.values())
    assert all(passes(ipv4(TCP, port)) for port in ports[::5])
    assert sum(bool(passes(ipv4(TCP, port))) for port in range(1, 65536, 64)) < 1024 * 2 / 3
    assert not passes(ipv4(UDP, ports[0]))


def test_coarser_programs_pass_what_the_exact_one_passes_and_become_small() -> None:
    ports = random.Random(3).sample(range(1, 65536), 2000)
    wanted = doors(*((port, "tcp") for port in ports[:1000]), *((port, "udp") for port in ports[1000:]))
    sizes = []
    for program in bpf.programs(wanted, 4):
        sizes.append(len(program))
        assert all(run(program, ipv4(TCP, port)) for port in ports[:1000:10])
        assert all(run(program, ipv4(UDP, port)) for port in ports[1000::10])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 80


@pytest.mark.parametrize("wide", [1, 2])
@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_takes_the_largest_program_within_a_small_optmem(version: int, wide: int) -> None:
    ports = [port + step for port in range(1, 60001, 60) for step in range(wide)]
    program = bpf.program(doors(*((port, "tcp") for port in ports)), version, elsewhere=range(2, 6))
    # The kernel charges its own form of the program, with two instructions for a jump that has two targets or
    # for a return, and up to 14 for a load from the packet, against net.core.optmem_max: 20,480 bytes on Debian 12.
    loads = (bpf.LOAD_WORD, bpf.LOAD_HALF, bpf.LOAD_BYTE, bpf.LOAD_HALF_AFTER_X, bpf.LOAD_X_HEADER_LENGTH)
    sizes = dict.fromkeys(loads, 14) | {bpf.RETURN: 2}
    charged = sum(sizes.get(code, 2 if yes and no else 1) for code, yes, no, _ in program)
    assert 8 * charged < 20480 - 500
    if sys.platform == "linux":
        code = bpf.pack(program)
        buffer = ctypes.create_string_buffer(code, len(code))
        filter_program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
            target.setsockopt(socket.SOL_SOCKET, 26, filter_program)  # SO_ATTACH_FILTER
