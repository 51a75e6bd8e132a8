# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `table`: rows as aligned lines, to be read by people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

WIDEST = 32
"""Columns are at most this wide. A longer cell moves the rest of its own line only."""


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Give a line of headings and one for each row; a row without a cell ends there, with what it says under `says`."""
    lines = [list(columns)]
    for row in rows:
        known = [str(row[column]) for column in columns if column in row]
        lines.append(known + ([str(row["says"])] if row.get("says") else []))
    # The text at the end of a line is nobody's column
    columned = [line if len(line) == len(columns) else line[:-1] for line in lines]
    widths = [
        min(WIDEST, max(len(line[index]) for line in columned if index < len(line))) for index in range(len(columns))
    ]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths + [0])).rstrip() for line in lines]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"table": table}
