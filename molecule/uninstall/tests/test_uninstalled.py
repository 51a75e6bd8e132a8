# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an uninstall leaves: what was there before the first run, and nothing else."""

from __future__ import annotations

from testinfra.host import Host


def test_everything_is_as_it_was_before(host: Host) -> None:
    before = host.file("/run/before").content_string
    assert "-A INPUT -p tcp -m tcp --dport 25 -j DROP" in before
    now = host.check_output("sh /run/everything")
    gone = sorted(set(before.splitlines()) - set(now.splitlines()))
    left = sorted(set(now.splitlines()) - set(before.splitlines()))
    assert (gone, left) == ([], [])


def test_it_had_been_there(host: Host) -> None:
    journal = host.check_output("journalctl --no-pager --output cat --unit knockd")
    assert "OPEN SESAME" in journal
