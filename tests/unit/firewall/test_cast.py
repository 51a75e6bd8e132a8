# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who plays in a rehearsal: a stranger is never on an allowlist, and whoever is on one is stood for."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._cast import (
    ALLOWED,
    FOREIGN,
    KNOCKER,
    STRANGER,
    choose,
    in_which,
)
from ansible_collections.sesame.knock.plugins.module_utils._gates import Gate
from ansible_collections.sesame.knock.plugins.module_utils._rules import Ports

OWN, OWN6 = "198.18.0.2", "fd00:5e5a::2"


def gate(*allow: str) -> Gate:
    return Gate("protected", (Ports(22, 22, "tcp"),), allow, 0x1000)


def test_the_first_and_the_last_host_stand_for_a_network() -> None:
    assert choose([gate("198.51.100.0/28")], "v4", OWN).of(ALLOWED) == ["198.51.100.1", "198.51.100.14"]
    assert choose([gate("2001:db8::/64")], "v6", OWN6).of(ALLOWED) == [
        "2001:db8::1",
        "2001:db8::ffff:ffff:ffff:fffe",
    ]


@pytest.mark.parametrize("network", ["198.51.100.7/32", "198.51.100.6/31", "2001:db8::7/128"])
def test_the_smallest_networks_are_stood_for(network: str) -> None:
    cast = choose([gate(network)], "v6" if ":" in network else "v4", OWN)
    assert ip_address(cast.of(ALLOWED)[0]) in ip_network(network)


def test_the_host_itself_never_comes_from_outside() -> None:
    cast = choose([gate("198.18.0.2/32", "198.18.0.0/30")], "v4", OWN)
    assert cast.of(ALLOWED) == ["198.18.0.1"]


def test_everybody_is_stood_for_by_addresses_that_can_be_a_hosts() -> None:
    for family, everybody, own in (("v4", "0.0.0.0/0", OWN), ("v6", "::/0", OWN6)):
        found = choose([gate(everybody)], family, own).of(ALLOWED)
        assert len(found) == 2
        assert all(ip_address(address).is_global for address in found)


def test_nobody_stands_for_a_network_that_nobody_comes_from() -> None:
    assert choose([gate("127.0.0.0/8", "224.0.0.0/4")], "v4", OWN).of(ALLOWED) == []
    assert choose([gate("::1/128", "fe80::/10")], "v6", OWN6).of(ALLOWED) == []


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_no_stranger_is_on_an_allowlist_even_where_almost_all_are(family: str) -> None:
    wide = gate("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/4", "2000::/4", "8000::/1")
    own = OWN if family == "v4" else OWN6
    cast = choose([wide, gate("198.51.100.0/28", "2001:db8::/64")], family, own)
    for part in (STRANGER, FOREIGN, KNOCKER):
        assert cast.of(part)
        assert not any(in_which(wide, address) for address in cast.of(part))


def test_strangers_stand_right_beside_an_allowed_network() -> None:
    strangers = choose([gate("198.51.100.16/28")], "v4", OWN).of(STRANGER)
    assert {"198.51.100.15", "198.51.100.32"} <= set(strangers)


def test_where_everybody_may_nobody_is_needed_outside() -> None:
    cast = choose([gate("0.0.0.0/1", "128.0.0.0/1")], "v4", OWN)
    assert cast.of(STRANGER) == []
    assert cast.gateway


def test_nobody_plays_two_parts() -> None:
    many = [gate(*("198.51.%d.0/24" % number for number in range(20))), gate("198.51.0.0/16", "203.0.113.0/24")]
    cast = choose(many, "v4", OWN)
    addresses = [source.address for source in cast.sources] + [cast.gateway, OWN]
    assert len(addresses) == len(set(addresses))


def test_the_narrowest_network_is_named() -> None:
    assert in_which(gate("0.0.0.0/0", "198.51.100.0/24"), "198.51.100.3") == "198.51.100.0/24"
    assert in_which(gate("198.51.100.0/24"), "203.0.113.1") == ""
