# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results to a table for people: each measure for us and the peers, the ratio, the aim, and whether it is met; pure."""

from __future__ import annotations

from typing import Callable, Iterator

from .figures import Figure, cells
from .measures import DOORS, FEW, MANY, MODERATE
from .results import BOUND, C_KNOCKD, OURS, PEERS, SHIPPED_C_KNOCKD, SILENT_C_KNOCKD, Results, Share

MIB = 1 << 20


def figures(results: Results) -> Iterator[Figure]:
    """All lines."""
    yield from _floods(results)
    yield from _costs(results)
    yield from _memory(results)
    yield from _latencies(results)
    idle = {row.peer: str(row.wakeups) for row in results.idle}
    ours = next(row for row in results.idle if row.peer == OURS)
    title = "wake-ups in %g s with nothing to do" % ours.seconds
    yield Figure(title, idle, aim="0 (no watchdog here)", met=not ours.wakeups)


def _floods(results: Results) -> Iterator[Figure]:
    for sources, asked, aim in ((None, 0, 99.0), (1, 0, 99.0), (None, MODERATE, 100.0)):
        found = {peer: row for peer in PEERS if (row := results.share(peer, sources, asked))}
        source = "1 source" if sources else "%s sources" % _count(MANY)
        rate = "%s/s" % _count(asked) if asked else "full speed"
        yield Figure(
            "knocks that open, flood from %s, %s" % (source, rate),
            {peer: _share(row) for peer, row in found.items()},
            aim=">= %g %%" % aim,
            met=found[OURS].percent >= aim,
        )


def _share(row: Share) -> str:
    return "%.1f %% (at %s/s)" % (row.percent, _count(row.rate))


def _costs(results: Results) -> Iterator[Figure]:
    ours, shipped = results.throughput(OURS), results.throughput(SHIPPED_C_KNOCKD)
    assert ours and shipped
    yield Figure(
        "packets/s that one core handles, 1 source; C knockd as shipped",
        {OURS: _count(ours), C_KNOCKD: _count(shipped)},
        "%.1f x" % (ours / shipped),
        ">= 4 x",
        ours >= 4 * shipped,
    )
    for peer, how in ((C_KNOCKD, "with a log file in place of syslog"), (SILENT_C_KNOCKD, "without any log")):
        theirs = results.throughput(peer)
        if theirs:
            yield Figure("    C knockd " + how, {C_KNOCKD: _count(theirs)}, "%.1f x" % (ours / theirs))
    elsewhere = {row.peer: "%.0f ms" % (row.user * 1e9 / row.sent) for row in results.elsewhere}
    mine = next(row for row in results.elsewhere if row.peer == OURS)
    yield Figure("user time for a million packets to other ports", elsewhere, aim="0 ms", met=not mine.user)
    base = results.cost(OURS, FEW, 1, 6)
    assert base
    theirs_base = results.cost(SILENT_C_KNOCKD, FEW, 1, 6)
    yield Figure(
        "CPU time per packet, %d live knockers, C knockd without log" % FEW,
        {OURS: _nanoseconds(base), C_KNOCKD: _nanoseconds(theirs_base)},
    )
    for live, doors, what in (
        (BOUND, 1, "at the bound of %s knockers" % _count(BOUND)),
        (FEW, DOORS, "%s doors, all of them knocked at" % _count(DOORS)),
        (BOUND, DOORS, "both"),
    ):
        cost = results.cost(OURS, live, doors, 6)
        assert cost
        yield Figure(
            "    the same, " + what,
            {OURS: "%s (%.2f x)" % (_nanoseconds(cost), cost / base)},
            aim="< 1.3 x of 10 knockers",
            met=cost < 1.3 * base,
        )
    for sources in (1_000, 10_000):
        cost = results.cost(SILENT_C_KNOCKD, sources, 1, 6)
        if cost and theirs_base:
            yield Figure(
                "    the same, %s knockers" % _count(sources),
                {C_KNOCKD: "%s (%.2f x)" % (_nanoseconds(cost), cost / theirs_base)},
            )


def _memory(results: Results) -> Iterator[Figure]:
    idle = {row.peer: _mebibytes(row.resident) for row in results.idle}
    ours = next(row.resident for row in results.idle if row.peer == OURS)
    yield Figure("resident memory, idle", idle, aim="<= 24 MiB", met=ours <= 24 * MIB)
    bound = max(row.resident for row in results.costs if (row.peer, row.live, row.doors) == (OURS, BOUND, 1))
    theirs = max(row.resident for row in results.costs if row.peer == SILENT_C_KNOCKD)
    yield Figure(
        "resident memory after the floods",
        {OURS: _mebibytes(bound), C_KNOCKD: _mebibytes(theirs)},
        aim="<= 96 MiB",
        met=bound <= 96 * MIB,
    )
    fastest = max(row.rate for row in results.shares if row.peer == OURS)
    for rate in (fastest, MODERATE):
        yield Figure(
            "guarantee: a knock in progress survives a flood of %s/s" % _count(rate),
            {OURS: "%.2f s" % (3 / 4 * BOUND / rate)},  # tracker.py: it survives three quarters as many others
        )


def _latencies(results: Results) -> Iterator[Figure]:
    def values(percent: float, flooded: bool) -> dict[str, float | None]:
        found = ((peer, results.latency(peer, flooded)) for peer in PEERS)
        return {peer: row.percentile(percent) for peer, row in found if row}

    median, late = values(50, False), values(99, False)
    ours, theirs, last = median[OURS], median[C_KNOCKD], late[OURS]
    count = {peer: len(row.microseconds) for peer in PEERS if (row := results.latency(peer, False))}
    words = {peer: "%s (n = %d)" % (_milliseconds(value), count[peer]) for peer, value in median.items()}
    ratio = "1/%.1f" % (theirs / ours) if ours and theirs else ""
    fast = ours is not None and theirs is not None and ours <= theirs / 5
    yield Figure("last knock to port open, median", words, ratio, "<= 1/5", fast)
    yield Figure("    about 1 ms", {OURS: _milliseconds(ours)}, aim="<= 1.0 ms", met=bool(ours and ours <= 1000))
    yield _compared("    99th percentile", late, 5, ours, last, "5 x the median")
    for what, percent, base in (("median", 50, ours), ("99th percentile", 99, last)):
        flooded = values(percent, True)
        title = "    %s during %s/s from %s sources" % (what, _count(MODERATE), _count(MANY))
        yield _compared(title, flooded, 3, base, flooded[OURS], "3 x without")


def _compared(
    measure: str, values: dict[str, float | None], factor: float, base: float | None, ours: float | None, aim: str
) -> Figure:
    met = base is not None and ours is not None and ours <= factor * base
    return Figure(measure, {peer: _milliseconds(value) for peer, value in values.items()}, aim="<= " + aim, met=met)


def table(results: Results) -> str:
    """All lines as text."""
    rows = cells(figures(results), PEERS)
    widths = [max(map(len, column)) for column in zip(*rows)]
    pads: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(PEERS) + 1), str.ljust, str.ljust]
    lines = ["  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths)).rstrip() for row in rows]
    machine = ["%s: %s" % item for item in results.machine.items()]
    return "\n".join([*machine, "", lines[0], "-" * len(lines[0]), *lines[1:]])


def _count(number: float) -> str:
    return format(round(number), ",")


def _nanoseconds(value: float | None) -> str:
    return "-" if value is None else "%s ns" % _count(value)


def _milliseconds(value: float | None) -> str:
    return "never" if value is None else "%.2f ms" % (value / 1000)


def _mebibytes(size: int) -> str:
    return "%.1f MiB" % (size / MIB)
