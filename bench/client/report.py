# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results to a table for people: what each way costs, the ratio, the aim, and whether it is met; pure."""

from __future__ import annotations

import statistics
from typing import Iterator

from ..figures import Figure, cells
from .results import ARTICLE, OURS, PLAIN, WAYS, Line, Results, median, overhead, play_seconds, ratio


def figures(results: Results) -> Iterator[Figure]:
    """All lines."""
    yield from _logins(results)
    yield from _copies(results)
    yield from _reaches(results)
    for line in results.lines:
        yield _line(line)
    yield from _plays(results)


def missed(results: Results) -> list[str]:
    """The measures that do not meet their aim."""
    return [figure.measure for figure in figures(results) if figure.met is False]


def _logins(results: Results) -> Iterator[Figure]:
    rows = results.logins
    over = {way: overhead(rows, way) or 0.0 for way in (ARTICLE, OURS)}
    values = {way: _milliseconds(median(rows, way)) for way in WAYS}
    turns = sum(row.way == OURS for row in rows)
    yield Figure("`ssh host true`, cold (n = %d)" % turns, values, "%.2f x plain" % (ratio(rows, OURS) or 0))
    yield Figure(
        "over plain ssh",
        {way: _more(value) for way, value in over.items()},
        "1/%.0f of the article's" % (over[ARTICLE] / over[OURS]) if over[OURS] > 0 else "",
        "at most 1/20",
        over[OURS] <= over[ARTICLE] / 20,
    )
    yield Figure("over plain ssh", {OURS: _more(over[OURS])}, "", "at most 40 ms", over[OURS] <= 0.04)


def _copies(results: Results) -> Iterator[Figure]:
    rows = results.copies
    found = ratio(rows, OURS) or 0.0
    yield Figure(
        "%g MB by scp, %s (n = %d)" % (results.size / 1e6, results.cipher, sum(row.way == OURS for row in rows)),
        {way: "%.2f s" % (median(rows, way) or 0) for way in WAYS},
        "%.3f x plain" % found,
        "at most 1.03 x",
        found <= 1.03,
    )


def _reaches(results: Results) -> Iterator[Figure]:
    rows = results.reaches
    beyond = overhead(rows, OURS) or 0.0
    yield Figure(
        "first knock to connection (n = %d); plain: one connect, which is one round trip"
        % sum(row.way == OURS for row in rows),
        {way: _milliseconds(median(rows, way)) for way in WAYS},
        _more(beyond),
        "at most 10 ms beyond the round trip",
        beyond <= 0.01,
    )


def _line(line: Line) -> Figure:
    typical = ", median %.1f s" % statistics.median(line.seconds) if line.seconds else ""
    return Figure(
        "logins that fail, %g ms and %g %% of the frames lost each way" % (line.delay, line.loss),
        {OURS: "%d of %d%s" % (len(line.failures), line.logins, typical)},
        "",
        "none",
        not line.failures,
    )


def _plays(results: Results) -> Iterator[Figure]:
    plain, ours = (play_seconds(results.plays, way) for way in (PLAIN, OURS))
    found = statistics.median(b / a for a, b in zip(plain, ours))
    timed = next(play for play in results.plays if not play.executions)
    one = next(play for play in results.plays if play.executions)
    yield Figure(
        "a play of %d tasks on %d hosts (n = %d)" % (timed.tasks, timed.hosts, len(ours)),
        {PLAIN: "%.1f s" % statistics.median(plain), OURS: "%.1f s" % statistics.median(ours)},
        "%.3f x plain" % found,
        "at most 1.05 x",
        found <= 1.05,
    )
    through = [play for play in results.plays if play.way == OURS]
    knocks, connections = sum(play.knocks for play in through), sum(play.connections for play in through)
    hosts = sum(play.hosts for play in through)
    yield Figure(
        "knocks for each host in such a play; connections that its sshd has seen",
        {OURS: "%.2f; %.2f" % (knocks / hosts, connections / hosts)},
        "ssh is run %.1f times" % (one.executions / one.hosts),
        "one for each connection",
        knocks == connections,
    )


def table(results: Results) -> str:
    """All lines, as Markdown that can be read as it is."""
    rows = cells(figures(results), WAYS)
    widths = [max(3, *map(len, column)) for column in zip(*rows)]
    lines = ["| %s |" % " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join([lines[0], "|%s|" % "|".join("-" * (width + 2) for width in widths), *lines[1:]])


def facts(results: Results) -> list[str]:
    """What the figures depend on, and what the lines were really like."""
    told = ["%s: %s" % item for item in results.machine.items()]
    for line in results.lines:
        told.append(
            "the line of %g ms: %.1f ms by ping, %.1f %% of the pings unanswered, %.2f %% of %s frames lost"
            % (
                *(line.delay, line.ping, 100 * line.unanswered, 100 * line.lost / (line.lost + line.frames)),
                format(line.lost + line.frames, ","),
            )
        )
        told += ["    %d x %s" % (line.failures.count(text), text) for text in sorted(set(line.failures))]
    return told


def _more(seconds: float) -> str:
    return "%+.1f ms" % (seconds * 1000)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return "%.1f ms" % (seconds * 1000) if seconds < 0.1 else "%s ms" % format(round(seconds * 1000), ",")
