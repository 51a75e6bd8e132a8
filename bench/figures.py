# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of a table of results, whoever is compared: what each did, the ratio, the aim, and whether it is met; pure."""

from __future__ import annotations

from typing import Iterable, NamedTuple, Sequence


class Figure(NamedTuple):
    """One line of a table."""

    measure: str
    values: dict[str, str]
    """What each one did, in words; one that the measure does not apply to is missing."""
    ratio: str = ""
    aim: str = ""
    met: bool | None = None


def cells(figures: Iterable[Figure], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The cells of a table with a column for each name, its head first."""
    return [
        ("", *names, "ratio", "aim", ""),
        *(
            (
                figure.measure,
                *(figure.values.get(name, "-") for name in names),
                figure.ratio,
                figure.aim,
                "" if figure.met is None else "met" if figure.met else "MISSED",
            )
            for figure in figures
        ),
    ]
