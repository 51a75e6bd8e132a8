# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Test `same_sequence`: are two knock sequences the same, however they are written?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.sesame.knock.plugins.module_utils._sequence import SequenceError, parse_sequence


def same_sequence(value: Any, other: Any) -> bool:
    """Compare two sequences, strings or lists; one that cannot be read is like no other."""
    try:
        return parse_sequence(value) == parse_sequence(other)
    except SequenceError:
        return False


class TestModule:
    """What Ansible looks for."""

    __test__ = False  # nor is it what pytest looks for

    def tests(self) -> dict[str, Callable[..., bool]]:
        """Name the test."""
        return {"same_sequence": same_sequence}
