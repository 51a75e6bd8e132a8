# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make client-mutants` and `make fault-mutants` take out is still there. They show that the tests then fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..faults import mutants as faults
from .client import mutants as client

ROOT = Path(__file__).parents[2]
MUTANTS = (*client.MUTANTS, *faults.MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=["%s of %s" % (mutant.lacks, mutant.file) for mutant in MUTANTS])
def test_what_a_mutant_takes_out_is_there_once(mutant: client.Mutant | faults.Mutant) -> None:
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.new != mutant.old


@pytest.mark.parametrize("mutant", client.MUTANTS, ids=[mutant.lacks for mutant in client.MUTANTS])
def test_the_test_that_has_to_fail_is_there(mutant: client.Mutant) -> None:
    file, _, test = mutant.test.partition("::")
    assert "\ndef %s(" % test in (ROOT / file).read_text(encoding="utf-8")
