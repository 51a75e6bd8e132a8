# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever happens at whatever step of a firewall change: nobody is locked out and nothing left open, in v4 and v6."""

from __future__ import annotations

import os

import pytest

from .campaign import Campaign, Row, log_of, rows

EVERYTHING = bool(os.environ.get("SESAME_FAULTS_ALL"))
"""All faults on all kinds of hosts, and docs/faults.md; else the sample that `make test` runs."""


@pytest.mark.parametrize("row", rows(EVERYTHING), ids=str)
def test_nobody_is_locked_out_and_nothing_left_open(campaign: Campaign, row: Row) -> None:
    outcome = campaign.outcomes[row].result()
    said = log_of(row).read_text(errors="replace")[-2000:] if outcome.problems and log_of(row).exists() else ""
    assert not outcome.problems, "\n".join([*outcome.problems, "The controller said:", said])
