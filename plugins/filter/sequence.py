# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters for knock sequences: `sequence` writes one as knockd.conf does, `sequence_problems` says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.sesame.knock.plugins.module_utils._sequence import (
    SequenceError,
    format_sequence,
    parse_sequence,
)


def sequence(value: Any, reverse: bool = False) -> str:
    """Write a sequence, a string or a list, as knockd.conf does."""
    try:
        knocks = parse_sequence(value)
    except SequenceError as error:
        raise AnsibleFilterError(str(error)) from None
    return format_sequence(knocks[::-1] if reverse else knocks)


def sequence_problems(value: Any, variable: str) -> list[str]:
    """Say what is wrong with a sequence, or with those of a list of doors, in sentences that name the variable."""
    if isinstance(value, list) and any(isinstance(door, Mapping) and "name" in door for door in value):
        return [
            problem
            for number, door in enumerate(value)
            if "one_time_sequences" not in door
            for problem in sequence_problems(door.get("sequence") or [], "%s[%d].sequence" % (variable, number))
        ]
    try:
        if value != "":
            parse_sequence(value)
    except SequenceError as error:
        return ["%s: %s." % (variable, error)]
    return []


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"sequence": sequence, "sequence_problems": sequence_problems}
