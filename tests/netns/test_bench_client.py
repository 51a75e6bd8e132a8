# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench-client` measures what it says: the quick form, on figures that do not depend on the machine's speed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bench.client.measures import LINES, QUICK, Bench
from bench.client.report import facts, missed, table
from bench.client.results import ARTICLE, OURS, PLAIN, WAYS, Line, Play, Results, Timed
from bench.place import compile_tools


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One quick run, once written and read."""
    tools = tmp_path_factory.mktemp("tools")
    compile_tools(tools)
    measured = Results({})
    Bench(tools, QUICK, measured, print).run()
    measured.save(tools / "results.json")
    return Results.load(tools / "results.json")


def test_every_way_is_measured_in_turn(results: Results) -> None:
    assert [row.way for row in results.logins] == [*WAYS] * QUICK.logins
    assert [row.way for row in results.copies] == [*WAYS] * QUICK.copies
    assert [row.way for row in results.reaches] == [PLAIN, OURS, ARTICLE, *[PLAIN, OURS] * (QUICK.reaches - 1)]
    assert [row.way for row in results.plays] == [PLAIN, OURS] * QUICK.plays + [OURS]
    assert all(row.seconds > 1.2 for row in results.reaches + results.logins if row.way == ARTICLE)


def test_bad_lines_are_bad(results: Results) -> None:
    assert [(line.delay, line.loss) for line in results.lines] == list(LINES)
    for line in results.lines:
        assert line.delay <= line.ping
        assert line.lost > 0
        assert line.logins == QUICK.line_logins
        assert min(line.seconds) > 6 * line.delay / 1000


def test_a_play_knocks_once_for_each_connection(results: Results) -> None:
    for play in results.plays:
        assert play.connections == play.hosts == QUICK.hosts
        assert play.knocks == (play.hosts if play.way == OURS else 0)
    assert results.plays[-1].executions > 9 * QUICK.hosts


def test_what_misses_its_aim_is_printed_as_missed() -> None:
    def made(*values: Any) -> Results:
        login, reach, copy, play, failures, knocks = values

        def both(plain: float, ours: float, article: float) -> list[Timed]:
            return [Timed(PLAIN, plain), Timed(ARTICLE, article), Timed(OURS, ours)]

        return Results(
            {},
            10**9,
            "cipher",
            both(0.2, 0.2 + login, 1.5),
            both(0.001, 0.001 + reach, 1.3),
            both(10, 10 * copy, 12),
            [Line(20, 2, 20, 0.04, 980, 20, [0.5], failures)],
            [
                Play(PLAIN, 10, 5, 10, 0, 5, 0),
                Play(OURS, 10 * play, 5, 10, knocks, 5, 0),
                Play(OURS, 99, 5, 10, 5, 5, 60),
            ],
        )

    good: tuple[Any, ...] = (0.039, 0.009, 1.02, 1.04, [], 5)
    assert missed(made(*good)) == []
    assert "MISSED" not in table(made(*good))
    for place, bad, count in ((0, 0.1, 2), (1, 0.011, 1), (2, 1.04, 1), (3, 1.06, 1), (4, ["closed"], 1), (5, 50, 1)):
        results = made(*good[:place], bad, *good[place + 1 :])
        assert len(missed(results)) == count, (place, bad)
        assert table(results).count("MISSED") == count
    assert "    1 x closed" in facts(dataclasses.replace(made(*good), lines=made(*good[:4], ["closed"], 5).lines))
