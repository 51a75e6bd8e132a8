# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run has measured, raw, as it is written to a file; pure."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Sequence

PLAIN, ARTICLE, OURS = "plain ssh", "the article's way", "sesame.knock"
WAYS = (PLAIN, ARTICLE, OURS)


class Timed(NamedTuple):
    """One try of one way in."""

    way: str
    seconds: float


class Line(NamedTuple):
    """Logins over a bad line by our way, each from an address of its own."""

    delay: float
    """Milliseconds that a round trip takes longer."""
    loss: float
    """Percent of the frames, in each direction."""
    ping: float
    """Milliseconds of a round trip, the median."""
    unanswered: float
    """Share of the pings."""
    frames: int
    lost: int
    seconds: list[float]
    """Of each login that was one."""
    failures: list[str]
    """What ssh said of each that was none."""

    @property
    def logins(self) -> int:
        """All that were tried."""
        return len(self.seconds) + len(self.failures)


class Play(NamedTuple):
    """One play on the fleet."""

    way: str
    seconds: float
    hosts: int
    tasks: int
    knocks: int
    """Whole sequences that the daemons have seen."""
    connections: int
    """Logins that the sshds have seen."""
    executions: int
    """How often Ansible has run ssh, where it was counted (that takes time), or 0."""


@dataclass
class Results:
    """All of one run."""

    machine: dict[str, str]
    size: int = 0
    """Bytes of a copy."""
    cipher: str = ""
    logins: list[Timed] = field(default_factory=list)
    """`ssh host true`, cold: turn by turn each way once."""
    reaches: list[Timed] = field(default_factory=list)
    """From the first knock to the connection; of plain ssh one connect, which is one round trip."""
    copies: list[Timed] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    plays: list[Play] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        tables = {name: [row._asdict() for row in getattr(self, name)] for name in _KINDS}
        raw = {"machine": self.machine, "size": self.size, "cipher": self.cipher, **tables}
        path.write_text(json.dumps(raw, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` has written."""
        raw: dict[str, Any] = json.loads(path.read_text())
        tables = {name: [kind(**row) for row in raw[name]] for name, kind in _KINDS.items()}
        return cls(raw["machine"], raw["size"], raw["cipher"], **tables)


_KINDS: dict[str, Any] = {"logins": Timed, "reaches": Timed, "copies": Timed, "lines": Line, "plays": Play}


def median(rows: Sequence[Timed], way: str) -> float | None:
    """Seconds; None for a way that was not measured."""
    found = [row.seconds for row in rows if row.way == way]
    return statistics.median(found) if found else None


def play_seconds(plays: Sequence[Play], way: str) -> list[float]:
    """Of its plays, without those whose executions were counted."""
    return [play.seconds for play in plays if play.way == way and not play.executions]


def pairs(rows: Sequence[Timed], way: str) -> list[tuple[float, float]]:
    """Seconds of plain ssh and of this way, turn by turn: what disturbs the machine disturbs both."""
    return list(zip((row.seconds for row in rows if row.way == PLAIN), (row.seconds for row in rows if row.way == way)))


def overhead(rows: Sequence[Timed], way: str) -> float | None:
    """Seconds over plain ssh, the median of all turns."""
    found = [other - plain for plain, other in pairs(rows, way)]
    return statistics.median(found) if found else None


def ratio(rows: Sequence[Timed], way: str) -> float | None:
    """Of the times to plain ssh's, the median of all turns."""
    found = [other / plain for plain, other in pairs(rows, way)]
    return statistics.median(found) if found else None
