# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of verify.yml: every host has a line, and columns stand one below the other."""

from __future__ import annotations

from ansible_collections.sesame.knock.plugins.filter.table import WIDEST, table

COLUMNS = ["host", "closed", "boot"]


def test_columns_stand_one_below_the_other() -> None:
    rows = [
        {"host": "web1", "closed": "yes", "boot": "yes"},
        {"host": "longer.example.org", "closed": "NO", "boot": "?"},
    ]
    lines = table(rows, COLUMNS)
    assert len(lines) == 3
    assert len({line.index(cell) for line, cell in zip(lines, ("closed", "yes", "NO"))}) == 1


def test_a_row_without_cells_says_why() -> None:
    lines = table(
        [{"host": "web1", "says": "NO: unreachable: no route to host"}, {"host": "web2", "closed": "yes"}], COLUMNS
    )
    assert lines[1] == "web1  NO: unreachable: no route to host"
    assert lines[0] == "host  closed  boot"


def test_a_long_reason_moves_its_own_line_only() -> None:
    rows = [
        {"host": "web1", "closed": "NO: " + "x" * 99, "boot": "yes"},
        {"host": "web2", "closed": "yes", "boot": "yes"},
    ]
    assert table(rows, COLUMNS)[2].index("yes", 10) == len("web1  ") + WIDEST + 2


def test_no_rows_are_a_heading() -> None:
    assert table([], COLUMNS) == ["host  closed  boot"]
