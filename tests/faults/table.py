# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/faults.md: each fault, what was to come of it and what came. A run of some faults renews their lines."""

from __future__ import annotations

from .campaign import Campaign, Row, rows
from .checks import Outcome, Reached
from .hosts import LABELS, ROOT, docker
from .kinds import KINDS

FILE = ROOT / "docs" / "faults.md"

HEAD = """\
# Faults

What happens to a host when a change of its firewall goes wrong, tried on real hosts over SSH. `make faults` injects
each of these faults and writes this table; do not edit it.

{versions}

- *before*: how port 22 was: open to all; closed, and the change adds networks to the allowlist; or kept, which is
  closed by a change that was kept before the fault.
- *expected* and *came*: what becomes of the change. A change that is undone or never began leaves everything as
  before.
- *knock*, *allowlist*, *strangers*: who gets in over IPv4 and IPv6, after the fault and again after a reboot: a knock
  and a login from an address on no list; a login from an address on the allowlist; and what an address on no list
  sees that has not knocked. Looks from the allowlist, two families every 0.4 s, saw an open port during the whole of
  it, whenever the host was up; and looks from a stranger saw a port that was closed as closed, also while the host
  booted.
- *agree*: the rules now, the files on disk and the rules after a reboot are the same, in both families, and nothing
  of the change is left behind.

| Debian | before | fault | at the step | expected | came | knock | allowlist | strangers | agree |
|---|---|---|---|---|---|---|---|---|---|
"""


def versions() -> str:
    parts = []
    for suite in dict.fromkeys(kind.suite for kind in KINDS):
        titles = " and ".join(kind.title for kind in KINDS if kind.suite == suite)
        script = "dpkg-query -W -f '${Package} ${Version}, ' systemd openssh-server; uname -r"
        seen = docker("run", "--rm", *LABELS, "--entrypoint", "sh", "sesame-knock:" + suite, "-c", script).strip()
        parts.append("%s: %s" % (titles, seen.replace("\n", " ")))
    return "; ".join(parts) + "."


def yes(reached: tuple[Reached | None, ...], what: str) -> str:
    answers = [answer for seen in reached if seen for answer in getattr(seen, what)]
    return "yes" if answers and all(answers) else "**NO**"


def strangers(reached: tuple[Reached | None, ...]) -> str:
    return " / ".join(sorted({answer for seen in reached if seen for answer in seen.strangers})) or "?"


def question(row: Row) -> str:
    """The begin of a line."""
    fault = row.fault
    return "| %s |" % " | ".join([row.kind.short, fault.start, fault.name, fault.step.name, fault.expected])


def answer(row: Row, outcome: Outcome) -> str:
    """The rest of it."""
    fault, seen = row.fault, (outcome.now, outcome.rebooted)
    cells = [fault.expected if outcome.happened in fault.accepted() else "**%s**" % outcome.happened]
    cells += [yes(seen, "knock"), yes(seen, "allowlist"), strangers(seen), "yes" if outcome.agree else "**NO**"]
    return " %s |" % " | ".join(cells)


def renew(campaign: Campaign) -> None:
    """Write what has come to an end, keep the lines of what this run did not ask for, and say what never ran."""
    before = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    lines = []
    for row in rows(everything=True):
        future = campaign.outcomes.get(row)
        if future and future.done() and not future.cancelled() and not future.exception():
            lines.append(question(row) + answer(row, future.result()))
        elif future:
            lines.append(question(row) + " **came to no end** | | | | |")
        else:
            there = (line for line in before if line.startswith(question(row)))
            lines.append(next(there, question(row) + " **not run yet** | | | | |"))
    FILE.write_text(HEAD.format(versions=versions()) + "\n".join(sorted(lines)) + "\n", encoding="utf-8")
