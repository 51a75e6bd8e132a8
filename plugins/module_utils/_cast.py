# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who plays in a rehearsal: addresses that stand for allowed networks, for strangers and for admitted knockers.

Everything here is pure. The same gates and the same host address always give the same cast.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Iterator, NamedTuple, Sequence, Union

from ._gates import Gate

_Address = Union[IPv4Address, IPv6Address]
_Network = Union[IPv4Network, IPv6Network]

ALLOWED, STRANGER, FOREIGN, KNOCKER = "allowed", "stranger", "foreign", "knocker"
"""What a source is. FOREIGN: a stranger whose packets another program has marked with all bits."""

MOST_NETWORKS = 8
"""So many networks of each gate are tried, by two addresses each."""
_MOST_NEIGHBOURS = 4
_TRIES = 4096


class Source(NamedTuple):
    """An address that tries to get in."""

    address: str
    part: str


class Cast(NamedTuple):
    """All who play in one family."""

    sources: tuple[Source, ...]
    gateway: str
    """An address that nobody else has."""

    def of(self, part: str) -> list[str]:
        return [source.address for source in self.sources if source.part == part]


def choose(gates: Sequence[Gate], family: str, own: str) -> Cast:
    """The cast for these gates, on a host that has this address."""
    taken = {ip_address(own)}
    networks = _networks(gates, family)
    sources = []
    for gate in gates:
        for network in _networks([gate], family)[:MOST_NETWORKS]:
            sources += [Source(str(address), ALLOWED) for address in _representatives(network, taken)]
    narrow = [network for network in networks if network.prefixlen]
    # Strangers right beside an allowed network find a mask that is too wide. The others are far from each other, and no
    # addresses that should not be in use, so that a ban or a filter of somebody else is not what decides
    outside = (address for address in _wanderers(family) if not any(address in network for network in narrow))
    for part, number in ((STRANGER, 2), (FOREIGN, 2), (KNOCKER, 3)):
        sources += [Source(str(address), part) for address in _take(outside, number, taken)]
    neighbours = (address for network in narrow for address in _neighbours(network, narrow))
    sources += [Source(str(address), STRANGER) for address in _take(neighbours, _MOST_NEIGHBOURS, taken)]
    gateway = next(address for address in _wanderers(family) if address not in taken)
    return Cast(tuple(sources), str(gateway))


def in_which(gate: Gate, address: str) -> str:
    """The network of the gate that lets this address in; empty if none does. The narrowest counts."""
    family = "v6" if ":" in address else "v4"
    found = [network for network in _networks([gate], family) if ip_address(address) in network]
    return str(max(found, key=lambda network: network.prefixlen)) if found else ""


def _networks(gates: Sequence[Gate], family: str) -> list[_Network]:
    """Without those that nobody comes from over a network."""
    networks = [ip_network(network) for gate in gates for network in gate.allowed(family)]
    return list(dict.fromkeys(network for network in networks if not (network.is_loopback or network.is_link_local)))


def _representatives(network: _Network, taken: set[_Address]) -> list[_Address]:
    """The first and the last host of a network, or who comes next to these."""
    last = network.num_addresses - 1
    # Who has the first address of all, or the last one, is no host
    edge = 1 if last > 1 else 0
    upwards = (network[number] for number in range(edge, min(last, edge + 3) + 1))
    downwards = (network[number] for number in range(last - edge, max(edge, last - edge - 3) - 1, -1))
    found = _take(upwards, 1, taken) + _take(downwards, 1, taken)
    if found:
        return found
    # The edges of a network like 0.0.0.0/0 are no addresses of hosts
    return _take((address for address in _wanderers(network) if address in network), 2, taken)


def _neighbours(network: _Network, networks: Sequence[_Network]) -> Iterator[_Address]:
    for address in (network[0] - 1 if int(network[0]) else None, _after(network)):
        if address is not None and not any(address in other for other in networks):
            yield address


def _after(network: _Network) -> _Address | None:
    last = network[-1]
    return last + 1 if int(last) < 2**last.max_prefixlen - 1 else None


def _take(addresses: Iterator[_Address], number: int, taken: set[_Address]) -> list[_Address]:
    """So many that can be a host's and nobody has; fewer if there are none."""
    found: list[_Address] = []
    if number == 0:
        return found
    for address in addresses:
        if address not in taken and _is_a_hosts(address):
            taken.add(address)
            found.append(address)
            if len(found) == number:
                break
    return found


def _is_a_hosts(address: _Address) -> bool:
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
        return False
    if isinstance(address, IPv4Address):
        return 1 <= int(address) >> 24 < 224
    return int(address) >> 32 not in (0, 0xFFFF)  # IPv4 addresses in IPv6's clothes


def _wanderers(family: str | _Network) -> Iterator[_Address]:
    """Public addresses from anywhere, always the same ones. No packet for them ever leaves the scratch network."""
    chance = random.Random("sesame.knock")
    for dummy in range(_TRIES):
        address: _Address
        if family == "v6" or isinstance(family, IPv6Network):
            address = IPv6Address(1 << 125 | chance.getrandbits(125))
        else:
            address = IPv4Address(chance.getrandbits(32))
        if address.is_global and _is_a_hosts(address):
            yield address
