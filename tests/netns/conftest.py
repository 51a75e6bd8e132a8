# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the kernel-level tests: root, Linux and network namespaces are all that they need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from .firewall_host import BACKENDS, FirewallHost
from .lab import FIREWALL, Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A client and a server, nothing in front of its port 22."""
    made = Lab(tmp_path)
    try:
        made.build()
        made.sshd()
        yield made
    finally:
        made.remove()


@pytest.fixture
def walled(lab: Lab) -> Lab:
    """The same behind a firewall that wants our mark on packets to port 22."""
    lab.nft(FIREWALL)
    return lab


def skip_unless_about(request: pytest.FixtureRequest) -> None:
    """Not every test has a meaning where nftables itself is the firewall."""
    reason = request.node.get_closest_marker("iptables_only")
    if reason and request.param == "native":
        pytest.skip("nftables: " + reason.args[0])


@pytest.fixture(params=BACKENDS)
def host(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[FirewallHost]:
    """The server with sshd, no rules of ours yet, and one of the two iptables, or neither."""
    skip_unless_about(request)
    made = FirewallHost(lab, tmp_path, request.param)
    try:
        yield made
    finally:
        made.remove()
