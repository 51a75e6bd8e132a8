# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two runs of site.yml before this have cost: connections that sshd could hold against the controller."""

from __future__ import annotations

import re

from testinfra.host import Host
from vantage import server_of

RUNS = 2
BUDGET = 5
# A connection that does not log in, in the words of OpenSSH 9.2 and 10.0.
UNAUTHENTICATED = re.compile(
    r"\[preauth\]|banner exchange|kex_exchange_identification|before authentication|drop connection|penalty"
)


def test_a_run_costs_at_most_five_unauthenticated_connections(host: Host) -> None:
    controller = re.sub(r"[0-9]+$", "1", server_of(host.backend.get_hostname()).ipv4)
    journal = host.check_output("journalctl --no-pager --unit ssh --output cat").splitlines()
    lines = [line for line in journal if controller in line.replace(":", " ").split()]
    assert [line for line in lines if line.startswith("Accepted publickey for admin")]
    assert len([line for line in lines if UNAUTHENTICATED.search(line)]) <= BUDGET * RUNS


def test_penalties_are_as_debian_ships_them(host: Host) -> None:
    settings = host.check_output("sshd -T")
    if host.system_info.release.startswith("12"):
        assert "persourcepenalties" not in settings  # OpenSSH 9.2 has none
    else:
        assert re.search(r"^persourcepenalties .*noauth:1", settings, re.MULTILINE)
