# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters for the firewall's variables: lists, networks by family, ports for iptables, and what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.sesame.knock.plugins.module_utils._rules import RulesError, parse_ports


def _network(item: Any) -> IPv4Network | IPv6Network:
    """Read one address or network; the error is a sentence that gives the right spelling."""
    text = str(item).strip()
    if "%" in text:  # ipaddress takes anything for a zone, and writes it out again
        raise ValueError("'%s' has a zone, which no rule can have: write the address without it" % text)
    try:
        network = ip_network(text)
    except ValueError:
        try:
            interface = ip_interface(text)
        except ValueError:
            raise ValueError(
                "'%s' is not an IPv4 or IPv6 address or network: write for example 198.51.100.7 or 2001:db8:5::/64"
                % text
            ) from None
        raise ValueError(
            "'%s' has host bits set: write %s for the network, or %s for the one address"
            % (text, interface.network, interface.ip)
        ) from None
    if network.prefixlen == 0:
        raise ValueError(
            "'%s' is everybody, and would leave the port open: name the networks that you come from" % text
        )
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ValueError(
            "'%s' is an IPv4 address in IPv6 clothes: write %s" % (text, network.network_address.ipv4_mapped)
        )
    return network


def as_list(value: Any) -> list[Any]:
    """A list as it is, and the items of a string with commas: an inventory in INI format has no simpler list."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, Iterable) and not isinstance(value, Mapping):
        return list(value)
    return [] if value is None else [value]


def _networks(value: Any) -> list[IPv4Network | IPv6Network]:
    return [_network(item) for item in as_list(value)]


def networks(value: Any) -> dict[str, list[str]]:
    """Sort addresses and networks into `v4` and `v6`, spelled as iptables-save does, each one once."""
    try:
        both = list(dict.fromkeys(_networks(value)))
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from None
    return {
        "v4": [str(network) for network in both if network.version == 4],
        "v6": [str(network) for network in both if network.version == 6],
    }


def covers(value: Any, address: str) -> bool:
    """Whether an address is in one of the networks."""
    try:
        return any(ip_address(address) in network for network in _networks(value))
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from None


def ports(value: Any) -> list[dict[str, Any]]:
    """Read `22/tcp`, `60000-60010/udp`: as `first`, `last`, `protocol`, `name`, and `dport` as iptables spells it."""
    try:
        found = list(dict.fromkeys(parse_ports(item) for item in as_list(value)))
    except RulesError as error:
        raise AnsibleFilterError(str(error)) from None
    return [{**item._asdict(), "name": str(item), "dport": item.dport} for item in found]


def common_ports(value: Any, others: Any) -> list[str]:
    """Name those of a list of ports that have a port in common with one of `others`."""
    mine, theirs = ports(value), ports(others)
    return [
        one["name"]
        for one in mine
        if any(
            one["protocol"] == other["protocol"] and one["first"] <= other["last"] and other["first"] <= one["last"]
            for other in theirs
        )
    ]


def ports_beyond(value: Any, others: Any) -> list[str]:
    """Name those of a list of ports that `others` do not cover as a whole."""
    theirs = ports(others)
    found = []
    for one in ports(value):
        uncovered = one["first"]
        for other in sorted((p for p in theirs if p["protocol"] == one["protocol"]), key=lambda p: p["first"]):
            if other["first"] <= uncovered <= other["last"]:
                uncovered = other["last"] + 1
        if uncovered <= one["last"]:
            found.append(one["name"])
    return found


def network_problems(value: Any, variable: str) -> list[str]:
    """Say what is wrong with a list of networks: a sentence for each item, which names the variable."""
    return _problems(value, variable, _network, ValueError)


def port_problems(value: Any, variable: str) -> list[str]:
    """Say what is wrong with a list of ports: a sentence for each item, which names the variable."""
    return _problems(value, variable, parse_ports, RulesError)


def _problems(value: Any, variable: str, read: Callable[[Any], Any], wrong: type[ValueError]) -> list[str]:
    found = []
    for item in as_list(value):
        try:
            read(item)
        except wrong as error:
            found.append("%s: %s" % (variable, error))
    if found and (isinstance(value, (str, Mapping)) or not isinstance(value, Iterable)):
        # `[198.51.100.7, ::1]` in an inventory in INI format, which wants quotes around each item, is a string as well
        items = re.findall(r"[^\s,;'\"\[\](){}]+", str(value))
        return found[:1] + ["The value of %s is no list: write a list, %s" % (variable, json.dumps(items[:4]))]
    return found


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "as_list": as_list,
            "networks": networks,
            "covers": covers,
            "ports": ports,
            "common_ports": common_ports,
            "ports_beyond": ports_beyond,
            "network_problems": network_problems,
            "port_problems": port_problems,
        }
