# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rules promise: which ports are closed, and who gets in all the same. Judge and rehearsal hold them to it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any, Iterable, Mapping, NamedTuple

from ._rules import Ports, RulesError, parse_ports


class Gate(NamedTuple):
    """Ports, and who may open a connection to them. The host itself and running sessions always may."""

    name: str
    ports: tuple[Ports, ...]
    allow: tuple[str, ...]
    """Networks of both families, as iptables-save spells them. All addresses of a family: the ports are open to it."""
    mark: int = 0
    """The bit that packets of admitted knockers carry; 0 where no knock opens these ports."""

    def allowed(self, family: str) -> tuple[str, ...]:
        """The networks of one family, `v4` or `v6`."""
        return tuple(network for network in self.allow if (":" in network) == (family == "v6"))


def read_gates(items: Iterable[Mapping[str, Any]], mark: int) -> list[Gate]:
    """Read what the module is given: `name`, `ports`, `allow` and `knock` of each gate. Raises RulesError."""
    gates = []
    for item in items:
        try:
            allow = tuple(str(ip_network(network)) for network in item["allow"])
        except ValueError as error:
            raise RulesError("gate %s: allow: %s" % (item["name"], error)) from None
        ports = tuple(parse_ports(port) for port in item["ports"])
        gates.append(Gate(item["name"], ports, allow, mark if item["knock"] else 0))
    return gates
