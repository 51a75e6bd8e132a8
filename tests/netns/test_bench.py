# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench-daemon` measures what it says: the quick form, on figures that do not depend on the machine's speed."""

from __future__ import annotations

import pytest

from bench.measures import DOORS, FEW, QUICK, Bench
from bench.place import compile_tools
from bench.report import table
from bench.results import BOUND, C_KNOCKD, FWKNOP, OURS, PEERS, SHIPPED_C_KNOCKD, SILENT_C_KNOCKD, Results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One quick run, once written and read."""
    tools = tmp_path_factory.mktemp("tools")
    compile_tools(tools)
    measured = Results({})
    Bench(tools, QUICK, measured, print).run()
    measured.save(tools / "results.json")
    return Results.load(tools / "results.json")


def test_every_figure_is_there(results: Results) -> None:
    costs = {(row.peer, row.live, row.doors, row.family) for row in results.costs}
    assert costs == {
        *((peer, 1, 1, 4) for peer in (OURS, SHIPPED_C_KNOCKD, C_KNOCKD, SILENT_C_KNOCKD)),
        *((OURS, live, doors, 6) for live in (FEW, BOUND) for doors in (1, DOORS)),
        *((SILENT_C_KNOCKD, live, 1, 6) for live in (FEW, 1_000, 10_000)),
    }
    assert [(row.peer, bool(row.flood)) for row in results.latencies] == [
        (peer, flooded) for peer in PEERS for flooded in (False, True)
    ]
    assert {row.peer for row in results.shares} == set(PEERS)
    assert {row.peer for row in results.idle} == {OURS, C_KNOCKD, FWKNOP}
    assert {row.peer for row in results.elsewhere} == {OURS, C_KNOCKD}


def test_clients_get_in_where_nobody_floods(results: Results) -> None:
    for peer in PEERS:
        row = results.latency(peer, flooded=False)
        # Not all: on a machine that builds something else meanwhile, a slow daemon lets a knock's time run out.
        assert row and len(row.opened) >= len(row.microseconds) / 2 >= QUICK.few / 2, peer
        assert all(value > 0 for value in row.opened)


def test_floods_flood(results: Results) -> None:
    for row in results.shares:
        assert row.rate > 1000, row
        assert 0 <= row.opened <= row.clients == QUICK.clients
    for cost in results.costs:
        assert cost.handled > 100, "not taken for knocks: %s" % (cost,)
        assert cost.cpu > 0


def test_the_table_has_a_line_for_each_aim(results: Results) -> None:
    lines = table(results).splitlines()
    aims = [line for line in lines if line.endswith(("  met", "  MISSED"))]
    for word, count in (
        *(("flood from", 3), ("one core handles", 1), ("other ports", 1), ("the same, ", 3), ("resident memory", 2)),
        *(("last knock to port open, median", 1), ("99th percentile", 2), ("during", 2), ("wake-ups", 1)),
    ):
        assert sum(word in line for line in aims) == count, word
    assert all(peer in "".join(lines) for peer in PEERS)
    assert "guarantee" in "".join(lines)
