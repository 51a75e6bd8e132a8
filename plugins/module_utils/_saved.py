# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sorts saved rules of others: what an administrator wrote is kept, what was only there at the moment of saving is not.

`iptables-save > rules.v4` also writes down fail2ban's bans, the chains of Docker and the hole of a knock. Loaded at
boot, a ban never ends, a chain is there twice or names a container that is gone, and a hole lets somebody in for ever.
The programs make theirs again when they start. Everything here is pure: tables in, tables out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ._rules import Ports, Table, chain_of, foreign, target_of, value_of, words_of

_CHAINS = re.compile(r"^(f2b-|fail2ban-|DOCKER|KUBE-|CNI-|NETAVARK|LIBVIRT_|ts-)")
"""Chains of programs that make them when they start: fail2ban, Docker, Kubernetes, podman, libvirt, Tailscale."""
_SETS = re.compile(r"^(f2b-|fail2ban-|crowdsec)")
_INTERFACES = re.compile(r"^(docker\d+|docker_gwbridge|br-[0-9a-f]{12}|veth[0-9a-f]+|podman\d+|cni\d+|virbr\d+)$")
_ADMINS = "DOCKER-USER"
"""The one chain of Docker that is its administrator's. Docker keeps what is in it, and jumps to it by itself."""


class Sorted(NamedTuple):
    """Saved rules of others, of one family."""

    kept: dict[str, Table]
    left_out: list[str]
    """`filter: -A INPUT ...`, in the order of the file."""


def sort(tables: dict[str, Table], protected: list[Ports]) -> Sorted:
    """Take out what must not be loaded at boot: chains, sets and interfaces of programs, and holes of a knock."""
    kept, left_out = {}, []
    for name, table in tables.items():
        passing = [rule for rule in table.rules if _is_of_the_moment(name, table, rule, protected)]
        chains = [chain for chain in table.chains if _is_made_again(table, chain)]
        mentioned = {chain_of(rule) for rule in passing}
        left_out += ["%s: chain %s" % (name, chain) for chain in chains if chain not in mentioned]
        left_out += ["%s: %s" % (name, rule) for rule in passing]
        kept[name] = Table(
            {chain: policy for chain, policy in table.chains.items() if chain not in chains},
            [rule for rule in table.rules if rule not in passing],
        )
    return Sorted(foreign(kept), left_out)


def _is_made_again(table: Table, chain: str) -> bool:
    if chain == _ADMINS:
        return table.rules_of(chain) in ([], ["-A %s -j RETURN" % _ADMINS])
    return bool(_CHAINS.match(chain))


def _is_of_the_moment(name: str, table: Table, rule: str, protected: list[Ports]) -> bool:
    chain, target, words = chain_of(rule), target_of(rule), words_of(rule)
    if chain == _ADMINS and not _is_made_again(table, chain):
        return bool(_CHAINS.match(target))  # that chain will not be there
    return (
        bool(_CHAINS.match(chain) or _CHAINS.match(target))
        or bool(_SETS.match(value_of(words, "--match-set")))
        or any(_INTERFACES.match(interface) for interface in _interfaces_of(words))
        or _is_hairpin(name, words, target)
        or _is_hole(name, words, target, protected)
    )


def _interfaces_of(words: list[str]) -> list[str]:
    """The interfaces that a rule names, negated ones too: `! -o docker0`."""
    options = ("-i", "-o", "--in-interface", "--out-interface")
    return [words[index + 1] for index, word in enumerate(words[:-1]) if word in options]


def _is_hairpin(name: str, words: list[str], target: str) -> bool:
    """Docker's rule for a container that calls itself by its published port."""
    source = value_of(words, "-s", "--source")
    return (name, target) == ("nat", "MASQUERADE") and bool(source) and source == value_of(words, "-d", "--destination")


def _is_hole(name: str, words: list[str], target: str, protected: list[Ports]) -> bool:
    """What a command door adds for one knocker: `-s ADDRESS -p tcp --dport 22 -j ACCEPT`, and nothing wider."""
    if name != "filter" or target != "ACCEPT" or not value_of(words, "-s", "--source").endswith(("/32", "/128")):
        return False
    protocol = value_of(words, "-p", "--protocol")
    listed = value_of(words, "--dport", "--dports", "--destination-port", "--destination-ports")
    return bool(listed) and all(_is_protected(item, protocol, protected) for item in listed.split(","))


def _is_protected(item: str, protocol: str, protected: list[Ports]) -> bool:
    first, dummy, last = item.partition(":")
    if not first.isdigit() or not (last or first).isdigit():
        return False
    return any(
        ports.protocol == protocol and ports.first <= int(first) and int(last or first) <= ports.last
        for ports in protected
    )
