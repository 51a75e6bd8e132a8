# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the rules are given: a host, once for each backend."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from ..lab import Lab
from .firewall_host import BACKENDS, FirewallHost


@pytest.fixture(params=BACKENDS)
def host(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[FirewallHost]:
    """The server with sshd, no rules of ours yet, and one of the two iptables, or neither."""
    reason = request.node.get_closest_marker("iptables_only")
    if reason and request.param == "native":
        pytest.skip("nftables: " + reason.args[0])
    made = FirewallHost(lab, tmp_path, request.param)
    try:
        yield made
    finally:
        made.remove()
