# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fault tests can fail: each protection is taken out of a copy of the collection, and the rows that need it see it.

Run by `make fault-mutants`, and not by `make test`. All rows begin with an open host, on which nothing but the copy has
ever changed the firewall.
"""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from typing import Iterator

import pytest

from ..taken_out import take_out
from . import steps
from .campaign import Campaign, Row
from .controller import without
from .faults import FAULTS, OPEN
from .hosts import ROOT
from .kinds import TRIXIE
from .steps import Step

COLLECTION = ("galaxy.yml", "meta", "playbooks", "plugins", "roles")


@dataclass(frozen=True)
class Mutant:
    """The collection without one protection."""

    lacks: str
    file: str
    old: str
    """This text is there once."""
    new: str
    caught: tuple[tuple[str, Step, str], ...]
    """A fault, at which step, and what its row has to say."""

    def make(self) -> None:
        """Copy the collection, and take the protection out."""
        shutil.rmtree(without(self.lacks), ignore_errors=True)
        copy = without(self.lacks) / "ansible_collections" / "sesame" / "knock"
        copy.mkdir(parents=True)
        for name in COLLECTION:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, symlinks=True)
            else:
                shutil.copy2(ROOT / name, copy / name)
        take_out(copy / self.file, self.old, self.new)


MODULE = "plugins/modules/firewall.py"
ON_THE_HOST = "plugins/module_utils/_host_command.py"
MUTANTS = (
    Mutant(
        "disarming",
        ON_THE_HOST,
        """    if is_systemd && [ "${command-}" != boot ]; then systemctl stop @TIMER@.timer 2>/dev/null; fi\n""",
        "",
        (("conntrack -F", steps.LIVE, "the revert is still armed"),),
    ),
    Mutant(
        "arming",
        MODULE,
        "            change.arm(token, seconds)\n",
        "",
        (
            ("controller killed", steps.V4_LIVE, "expected: undone, but it is neither"),
            ("module killed", steps.LIVE, "expected: undone, but it is neither"),
        ),
    ),
    Mutant(
        "rehearsal",
        MODULE,
        """    if gates and module.params["rehearse"] and backend.is_installed:\n""",
        "    if False:\n",
        (("another's chain drops knockers", steps.REHEARSED, "expected: never began, but it is undone"),),
    ),
    Mutant(
        "judge and rehearsal",
        MODULE,
        "    hold_to_promise(module, backend, differs)\n",
        "",
        (
            ("rules with the allowlist forgotten", steps.JUDGED, "the allowlist is shut out over IPv4"),
            ("rules with the allowlist forgotten in IPv6", steps.JUDGED, "the allowlist is shut out over IPv6"),
            # From the boot on, the daemon's guard refuses what the rules do not
            ("rules with IPv6 forgotten", steps.JUDGED, "the play of broken rules has succeeded"),
        ),
    ),
    Mutant(
        "boot unit",
        ON_THE_HOST,
        """ENABLED = ("knock-firewall-boot.service", "knock-firewall-check.service", CHECK_TIMER)""",
        """ENABLED = ("knock-firewall-check.service", CHECK_TIMER)""",
        (
            ("power lost", steps.V4_LIVE, "a change is still under way"),
            ("power lost", steps.V4_SAVED, "strangers see open over IPv6"),
        ),
    ),
)


def row_of(mutant: Mutant, name: str, step: Step) -> Row:
    (fault,) = (fault for fault in FAULTS if (fault.name, fault.step, fault.start) == (name, step, OPEN))
    return Row(TRIXIE, fault, mutant.lacks)


CAUGHT = [(row_of(mutant, name, step), says) for mutant in MUTANTS for name, step, says in mutant.caught]


@pytest.fixture(scope="session")
def products() -> None:
    for mutant in MUTANTS:
        mutant.make()


@pytest.fixture(scope="session")
def seen(request: pytest.FixtureRequest) -> Iterator[dict[Row, list[str]]]:
    """What each row said: a table at the end."""
    said: dict[Row, list[str]] = {}
    yield said
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print()
        for row, sentences in said.items():
            print("without %-20s %s, %s" % (row.lacks, row.fault.name, row.fault.step.name))
            for sentence in sentences or ["NOTHING"]:
                print(" " * 28, textwrap.shorten(sentence, 120))


@pytest.mark.parametrize(("row", "says"), CAUGHT, ids=[str(row) for row, says in CAUGHT])
def test_a_missing_protection_is_seen(
    products: None, campaign: Campaign, seen: dict[Row, list[str]], row: Row, says: str
) -> None:
    seen[row] = [problem.splitlines()[0] for problem in campaign.outcomes[row].result().problems]
    assert any(says in sentence for sentence in seen[row]), seen[row]
