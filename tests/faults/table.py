# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/faults.md: each fault of a whole run, what was to come of it and what came."""

from __future__ import annotations

import pickle

from .campaign import Campaign, Row, rows
from .checks import Outcome, Reached
from .hosts import ROOT, docker
from .kinds import KINDS

OUTCOMES = ROOT / ".cache" / "faults-outcomes"
"""What the last run of each fault came to: a run of some faults renews their rows."""

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
        seen = docker("run", "--rm", "--entrypoint", "sh", "sesame-knock:" + suite, "-c", script).strip()
        parts.append("%s: %s" % (titles, seen.replace("\n", " ")))
    return "; ".join(parts) + "."


def yes(reached: tuple[Reached | None, ...], what: str) -> str:
    answers = [answer for seen in reached if seen for answer in getattr(seen, what)]
    return "yes" if answers and all(answers) else "**NO**"


def strangers(reached: tuple[Reached | None, ...]) -> str:
    return " / ".join(sorted({answer for seen in reached if seen for answer in seen.strangers})) or "?"


def line(row: Row, outcome: Outcome) -> str:
    fault, seen = row.fault, (outcome.now, outcome.rebooted)
    cells = [row.kind.short, fault.start, fault.name, fault.step.name]
    cells += [fault.expected, fault.expected if outcome.happened in fault.accepted() else "**%s**" % outcome.happened]
    cells += [yes(seen, "knock"), yes(seen, "allowlist"), strangers(seen), "yes" if outcome.agree else "**NO**"]
    return "| %s |" % " | ".join(cells)


def keep(campaign: Campaign) -> None:
    """Remember what has come to an end; forget what has failed on the way."""
    OUTCOMES.mkdir(parents=True, exist_ok=True)
    for row, future in campaign.outcomes.items():
        (OUTCOMES / str(row)).unlink(missing_ok=True)
        if future.done() and not future.cancelled() and not future.exception():
            (OUTCOMES / str(row)).write_bytes(pickle.dumps(future.result()))


def write() -> None:
    """The table, if there is an outcome for every row."""
    wanted = rows(everything=True)
    if all((OUTCOMES / str(row)).exists() for row in wanted):
        lines = sorted(line(row, pickle.loads((OUTCOMES / str(row)).read_bytes())) for row in wanted)
        text = HEAD.format(versions=versions()) + "\n".join(lines) + "\n"
        (ROOT / "docs" / "faults.md").write_text(text, encoding="utf-8")
