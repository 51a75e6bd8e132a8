# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ours beside the real C knockd, packet by packet: they differ where docs/compatibility.md says so, and nowhere else.

Both get thousands of traces made by chance. Three claims hold for each: C knockd says what the model says with all its
bugs, ours what the model says with none of them, and ours with everything classic what is left between. So every
difference has a number; how often each was seen is printed, and must not be never.

A trace in which a packet came too near to the end of a window to judge by is left out. One that breaks a claim is
played again, alone, and fails if it does so each time; it is then cut down to what it needs to fail.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from . import traces
from .arena import END, Arena, Heard, Played
from .knockd_c import BUGS, CLASSIC, ONE_DOOR, REPEATED, WHOLE_SECONDS, WIPED, Door, Model, Told

ROUNDS = int(os.environ.get("CONFORMANCE_ROUNDS", "2"))
"""Each with doors of its own; `make conformance` plays more."""
TRACES = 200
"""In each round."""
MARGIN = 0.3
"""Seconds before and after the end of a window in which a delay of the daemon could decide."""
SCANNED = 2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

differences: Counter[int] = Counter()
"""Traces that C knockd and ours did not judge alike, by number."""
seen: Counter[str] = Counter()


class Verdict(NamedTuple):
    """What is wrong with a trace, or why it cannot be judged."""

    wrong: str = ""
    close: bool = False
    numbers: frozenset[int] = frozenset()
    """Which deviations it has shown."""


class Referee:
    """Compares what the daemons of an arena have said with the models."""

    def __init__(self, arena: Arena, doors: tuple[Door, ...]) -> None:
        self._arena = arena
        self._doors = (*doors, END)
        self._heard: dict[str, Heard] = {}
        self._models: dict[tuple[int, frozenset[int]], Model] = {}

    def judge(self, played: Played) -> Verdict:
        """Judges one trace."""
        rival, fixed, classic = (self._model(played.lane, bugs) for bugs in (BUGS, frozenset[int](), CLASSIC))
        numbers = self._numbers(played, rival, fixed)
        close = any(
            model.closest.get(source, MARGIN) < MARGIN for source in played.sources for model in (fixed, classic)
        )
        for name, model in (("c%d" % played.lane, rival), ("ours", fixed), ("classic", classic)):
            if close and model is not rival:
                continue
            heard = self._hear(name)
            for source in played.sources:
                expected = model.told.get(source, [])
                if name == "ours" and played.trace.scans and source == played.sources[0]:
                    kept_out = Counter(filter(_opens, itertools.chain(*expected)))
                    opened = Counter(filter(_opens, heard.told.get(source, [])))
                    wrong = "" if opened <= kept_out else "a scan opens what it has not knocked on"
                    numbers |= {SCANNED} if opened < kept_out else frozenset()
                else:
                    wrong = _compare(heard, source, expected, settles=name == "ours")
                if not wrong:
                    wrong = _compare_commands(heard, source, exactly=name != "ours")
                if wrong:
                    return Verdict("%s, source %d: %s" % (name, played.sources.index(source), wrong), close, numbers)
        return Verdict("", close, numbers)

    def _numbers(self, played: Played, rival: Model, fixed: Model) -> frozenset[int]:
        """The smallest set of bugs that makes the fixed model say what C knockd says."""

        def said(model: Model) -> list[list[list[Told]]]:
            return [model.told.get(source, []) for source in played.sources]

        for size in range(len(BUGS) + 1):
            for bugs in itertools.combinations(sorted(BUGS), size):
                if said(self._model(played.lane, frozenset(bugs))) == said(rival):
                    return frozenset(bugs)
        raise AssertionError("all of them make C knockd")

    def _model(self, lane: int, bugs: frozenset[int]) -> Model:
        if (lane, bugs) not in self._models:
            model = self._models[lane, bugs] = Model(self._doors, self._arena.local, bugs)
            for at, packet in self._arena.seen[lane]:
                model.observe(at, packet)
        return self._models[lane, bugs]

    def _hear(self, name: str) -> Heard:
        if name not in self._heard:
            self._heard[name] = self._arena.heard(name)
        return self._heard[name]


def _compare(heard: Heard, source: bytes, expected: list[list[Told]], settles: bool) -> str:
    """Compares log lines; those that one packet brings about may come in any order."""
    said = heard.told.get(source, [])
    if settles:  # number 2: a door whose sequence is weak opens a little later than its last stage is logged
        opened = Counter(filter(_opens, said)) == Counter(filter(_opens, itertools.chain(*expected)))
        right = opened and (not heard.whole or _in_order(said, expected, lambda told: not _opens(told)))
    else:
        right = _in_order(said, expected, (lambda _told: True) if heard.whole else _opens)
    if right:
        return ""
    return "said\n%s\ninstead of\n%s" % (
        *("\n".join("        %s: %s" % told for told in lines) for lines in (said, itertools.chain(*expected))),
    )


def _opens(told: Told) -> bool:
    return told.text == "OPEN SESAME"


def _in_order(said: list[Told], expected: list[list[Told]], counts: Callable[[Told], bool]) -> bool:
    rest = list(filter(counts, said))
    for step in expected:
        told = list(filter(counts, step))
        if sorted(rest[: len(told)]) != told:
            return False
        del rest[: len(told)]
    return not rest


def _compare_commands(heard: Heard, source: bytes, exactly: bool) -> str:
    """Compares what has run with what has opened; with number 16 a door that is open is not opened again."""
    opened = Counter(told.door for told in heard.told.get(source, []) if told.text == "OPEN SESAME")
    done = Counter(heard.done.get(source, []))
    started = Counter({door: done["start " + door] for door in opened})
    if set(opened) != {door for door in started if started[door]} or sum(started.values()) + sum(
        done["stop " + door] for door in opened
    ) != sum(done.values()):
        return "opened %s, but ran %s" % (dict(opened), dict(done))
    if exactly and started != opened:
        return "opened %s, but started %s" % (dict(opened), dict(started))
    for door in opened:
        if done["stop " + door] not in (0, started[door]):
            return "%s: ran %s" % (door, dict(done))
    return ""


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    made = Arena(tmp_path)
    try:
        yield made
    finally:
        made.remove()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_difference_has_a_number(arena: Arena, number: int) -> None:
    chance = random.Random(number)
    doors, config = traces.doors(chance)
    arena.build(config)
    played = arena.play([traces.trace(chance, doors) for _ in range(TRACES)])
    verdicts = _judge(arena, doors, played)
    for verdict in verdicts:
        differences.update(verdict.numbers)
        seen.update(("left out" if verdict.close else "judged",))
    for each, verdict in zip(played, verdicts):
        if verdict.wrong:
            again = _fails_again(arena, doors, each.trace)
            assert not again, _report(arena, doors, config, each.trace, again)


def _judge(arena: Arena, doors: tuple[Door, ...], played: list[Played]) -> list[Verdict]:
    referee = Referee(arena, doors)
    return [referee.judge(each) for each in played]


def _fails_again(arena: Arena, doors: tuple[Door, ...], trace: traces.Trace) -> str:
    """What is wrong with a trace each time it is played alone; nothing if it was a delay."""
    for _ in range(2):
        (verdict,) = _judge(arena, doors, arena.play([trace]))
        if not verdict.wrong:
            return ""
    return verdict.wrong


def _report(arena: Arena, doors: tuple[Door, ...], config: str, trace: traces.Trace, wrong: str) -> str:
    """Cuts the trace down: all that lack one more packet are played side by side, until none of them fails."""
    while len(trace.steps) > 1:
        shorter = [
            trace._replace(steps=trace.steps[:place] + trace.steps[place + 1 :]) for place in range(len(trace.steps))
        ]
        verdicts = _judge(arena, doors, arena.play(shorter))
        failing = [(each, verdict.wrong) for each, verdict in zip(shorter, verdicts) if verdict.wrong]
        if not failing:
            break
        trace, wrong = failing[0]
    return "%s\nthe trace:\n%s\nthe doors:\n%s" % (wrong, trace, config)


def test_the_traces_show_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    if not seen:
        pytest.skip("nothing was played")
    with capsys.disabled():
        print("\n%s; differences by number: %s" % (dict(seen), dict(sorted(differences.items()))))
    assert seen["judged"] > 4 * seen["left out"]
    assert set(differences) == {WIPED, SCANNED, REPEATED, ONE_DOOR, WHOLE_SECONDS}
