# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One fault on one host, from its boot to its last check."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

from . import controller
from .backends import Backend, Moments
from .checks import (
    Outcome,
    Reached,
    Rules,
    is_settled,
    last_change,
    leftovers_of,
    reach,
    rules_of,
    secrets_of,
    timer_waits,
)
from .hosts import Host, Watch, small_disk
from .traps import NeverReached, Trap

if TYPE_CHECKING:
    from .faults import Fault
    from .site import Site

CLOSE = "play_close.yml"
GRACE = 1.5
"""Seconds that a client may need to see that a host is back."""
SETTLES = controller.DEADLINE + 20
"""Seconds after which nothing may be under way any more."""


class Case:
    """What the injection of a fault works with."""

    def __init__(self, fault: Fault, host: Host, site: Site, log: Path, collections: Path) -> None:
        self.fault = fault
        self.host = host
        self.site = site
        self.backend = site.kind.backend
        self.log = log
        self.collections = collections
        self.before = site.before[fault.start]
        self.change = site.changes[fault.start]
        self.other = site.others[fault.start]
        """What another controller wants."""
        self.outcome = Outcome()
        self._down: list[tuple[float, float]] = []
        self._trap: Trap | None = None

    # --- what an injection calls ---

    @contextlib.contextmanager
    def held(self, **variables: Any) -> Iterator[controller.Play]:
        """Run the play up to the fault's step; what happens there is up to the caller. Afterwards all goes on."""
        with self.play(CLOSE, **variables) as play:
            self.hold(play)
            yield play
            self.release(play)
            if play.wait() == 0 and timer_waits(self.host):
                self.outcome.problems.append("the play has succeeded, and the revert is still armed")

    def play(self, playbook: str = CLOSE, **variables: Any) -> contextlib.AbstractContextManager[controller.Play]:
        wanted = {**self.change.variables, **variables}
        return controller.play(self.host, playbook, self.log, self.collections, **wanted)

    def play_of_the_other(self) -> contextlib.AbstractContextManager[controller.Play]:
        log = self.log.with_suffix(".other.log")
        return controller.play(self.host, CLOSE, log, self.collections, **self.other.variables)

    def refuse(self, **variables: Any) -> None:
        """A run of broken rules, which must not succeed."""
        with self.play("play_broken.yml", **variables) as play:
            if play.wait() == 0:
                self.outcome.problems.append("the play of broken rules has succeeded")

    def rerun(self) -> None:
        """The play again, without a fault."""
        with self.play() as play:
            assert play.wait(300) == 0, play.tail()

    def hold(self, play: controller.Play) -> int:
        """Wait until the play has come to the step; returns what is held on the host, or 0."""
        process = 0
        for moments in self.backend.way[self.fault.step]:
            process = self.wait_at(moments, play)
        if self.fault.step.then_next_connection:
            play.hold()
            self.release()
            play.wait_held()
        self.outcome.problems += ["the sequence is in the %s" % place for place in secrets_of(self.host)]
        return process

    def wait_at(self, moments: Moments, play: controller.Play | None = None) -> int:
        """Let what is held go on, and hold the host at the next of these moments."""
        self._trap = Trap(self.host, moments)
        try:
            return self._trap.wait()
        except NeverReached as error:
            raise AssertionError("%s: %s" % (error, play.tail() if play else "")) from None

    def release(self, play: controller.Play | None = None) -> None:
        if play:
            play.release()
        if self._trap:
            self._trap.release()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Nobody can be expected to get in meanwhile."""
        begin = time.time()
        yield
        self._down.append((begin - GRACE, time.time() + GRACE))

    def settle(self) -> None:
        """Wait until no change is under way."""
        deadline = time.monotonic() + SETTLES
        while not is_settled(self.host):
            if time.monotonic() > deadline:
                self.outcome.problems.append("a change is still under way after %d s" % SETTLES)
                return
            time.sleep(0.3)

    def look(self) -> None:
        """While a fault lasts: who gets in has to be the same as ever."""
        self.outcome.problems += [
            "%s while the fault lasts" % problem
            for problem in wrong_with(reach(self.host, self.site.allowed, self._outside), closed=True)
        ]

    # --- the whole ---

    def run(self) -> Outcome:
        image, folder = self.site.image(self.fault.start), self.backend.disks.get(self.fault.disk, "")
        with small_disk(self.host, folder, image) as options:
            self.host.boot(image, self.site.key, *options)
            try:
                with (
                    Watch(self.site.stranger, self.host) as self._outside,
                    Watch(self.site.allowed, self.host) as inside,
                ):
                    began = time.time()
                    self._last_change = last_change(self.host)
                    self.fault.strike(self)
                    self.settle()
                    self._judge(self._outside, inside, began)
            finally:
                self.host.remove()
        return self.outcome

    def _judge(self, outside: Watch, inside: Watch, began: float) -> None:
        outcome, fault, allowed = self.outcome, self.fault, self.site.allowed
        settled = time.time()
        rules, has_ended = rules_of(self.host, self.backend), last_change(self.host) != self._last_change
        outcome.now = reach(self.host, allowed, outside)
        outcome.problems += ["the sequence is in the %s" % place for place in secrets_of(self.host)]
        rebooting = time.time()
        with self.down():
            self.host.reboot()
        rebooted = rules_of(self.host, self.backend)
        outcome.problems += ["left behind: %s" % name for name in leftovers_of(self.host)]
        outcome.rebooted = reach(self.host, allowed, outside)
        ended = time.time()

        outcome.happened = self._what(rules, has_ended)
        if outcome.happened not in fault.accepted():
            outcome.problems.append("expected: %s, but it is %s" % (fault.expected, outcome.happened))
        outcome.agree = rules.agree() and rules == rebooted
        if not outcome.agree:
            found = differences(rules, rebooted, self.backend)
            outcome.problems.append("rules now, on disk and after a reboot differ:\n%s" % found)
        closed = any(rules.disk)
        for when, seen in (("", outcome.now), (" after a reboot", outcome.rebooted)):
            outcome.problems += [problem + when for problem in wrong_with(seen, closed)]
        # Whoever was shut out before, or is now, never gets in; the allowlist always does
        since = settled if fault.start == "open" else began
        opened = [look for look in outside.seen if look[2] == "open" and since <= look[0] <= ended]
        if closed and opened:
            moments = ["%s at %+.1f s" % (address, when - rebooting) for when, address, dummy in opened]
            outcome.problems.append(
                "a stranger got in, for a moment (the last reboot is at 0 s): %s" % ", ".join(moments)
            )
        missed = [
            "%s at %s" % (answer, address)
            for when, address, answer in inside.seen
            if answer != "open" and not any(begin <= when <= end for begin, end in self._down)
        ]
        if missed:
            outcome.problems.append("the allowlist was shut out %d times: %s" % (len(missed), sorted(set(missed))))

    def _what(self, rules: Rules, has_ended: bool) -> str:
        if rules == self.change.rules:
            return "kept"
        if rules == self.before:
            return "undone" if has_ended else "never began"
        if rules == self.other.rules:
            return "kept, the other's"
        return "neither the old rules nor the new ones"


def wrong_with(seen: Reached, closed: bool) -> list[str]:
    """What may not be."""
    problems = []
    for family, knock, allowlist, strangers in zip(("IPv4", "IPv6"), seen.knock, seen.allowlist, seen.strangers):
        if not knock:
            problems.append("a knock does not let in over %s" % family)
        if not allowlist:
            problems.append("the allowlist is shut out over %s" % family)
        if strangers not in (("refused", "silent") if closed else ("open",)):
            problems.append("strangers see %s over %s" % (strangers or "nothing", family))
    return problems


def differences(now: Rules, rebooted: Rules, backend: Backend) -> str:
    """For the person who reads a failed test."""
    lines = []
    for number, listing in enumerate(backend.listings):
        sets = {
            "now": now.live[number],
            "on disk": now.disk[number],
            "rebooted": rebooted.live[number],
            "on disk after the reboot": rebooted.disk[number],
        }
        for line in sorted({line for lines in sets.values() for line in lines}):
            there = [name for name, lines in sets.items() if line in lines]
            if len(there) < len(sets):
                lines.append("%s %s: only %s" % (listing.name, line, " and ".join(there)))
    if now.guard != rebooted.guard:
        lines.append("the guard has changed by a reboot")
    return "\n".join(lines) or "in their order"
