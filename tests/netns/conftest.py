# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the kernel-level tests: root, Linux and network namespaces are all that they need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from .lab import FIREWALL, Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def bare_lab(tmp_path: Path) -> Iterator[Lab]:
    """A client and a server whose port 22 nobody has yet."""
    made = Lab(tmp_path)
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture
def lab(bare_lab: Lab) -> Lab:
    """A client and a server, nothing in front of its port 22."""
    bare_lab.sshd()
    return bare_lab


@pytest.fixture
def walled(lab: Lab) -> Lab:
    """The same behind a firewall that wants our mark on packets to port 22."""
    lab.nft(FIREWALL)
    return lab
