# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller behind a router that masquerades: role knock_firewall says who else comes in, in both families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..lab import CLIENT, CLIENT6, SERVER, SERVER6, Namespace
from .firewall_host import SshdHost
from .ssh_controller import INSIDE, INSIDE6, ask, controller, host, lab

__all__ = ("controller", "host", "lab")

BOTH = pytest.mark.parametrize(
    ("server", "own", "seen"), [(SERVER, INSIDE, CLIENT), (SERVER6, INSIDE6, CLIENT6)], ids=["ipv4", "ipv6"]
)


def preflight(host: SshdHost, controller: Namespace, server: str, key: Path, **variables: Any) -> str:
    said = ask(host, controller, server, key, "variables", "preflight", **variables)
    assert "failed=0" in said, said
    return said


@BOTH
def test_who_comes_by_a_nat_hears_who_else_comes_in(
    host: SshdHost, controller: Namespace, tmp_path: Path, server: str, own: str, seen: str
) -> None:
    host.lab.client.run("nft", "add table inet nat")
    host.lab.client.run("nft", "add chain inet nat post { type nat hook postrouting priority 100; }")
    host.lab.client.run("nft", "add rule inet nat post oifname eth0 masquerade")
    said = preflight(host, controller, server, tmp_path / "key", knock_firewall_allowlist_controller=True)
    assert "server sees you as %s, and you are %s: a NAT or a jump host is in between" % (seen, own) in said
    assert "by knock_firewall_allowlist_controller on the allowlist" in said


@BOTH
def test_who_comes_as_they_are_hears_nothing_of_it(
    host: SshdHost, controller: Namespace, tmp_path: Path, server: str, own: str, seen: str
) -> None:
    said = preflight(host, controller, server, tmp_path / "key", knock_firewall_allowlist=[own])
    assert "sees you as" not in said
