# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lookups read from a host's variables: its sequences, as plain strings.

Each task's process loads the lookups anew: so the grammar of sequences is imported only where one is read.
"""

from __future__ import annotations

from typing import Any, Mapping

# By what a profile calls them.
SEQUENCES = {"sequence": "knock_sequence", "previous": "knock_sequence_previous"}
JUMP = "knock_jump"


def given_sequences(variables: Mapping[str, Any], templar: Any) -> dict[str, str]:
    """Give what a profile calls `sequence` and `previous`, unread; {} for a host without a sequence.

    A lookup gets its variables as they were written: templates and vaulted values included.
    """
    found = {}
    for key, name in SEQUENCES.items():
        value = templar.template(variables[name]) if variables.get(name) is not None else None
        if value:
            found[key] = str(value) if isinstance(value, str) else _read(key, value)
    return found if "sequence" in found else {}


def read_sequences(sequences: Mapping[str, str]) -> dict[str, str]:
    """Read them, and write them out as knockd.conf has them; the error names the variable."""
    return {key: _read(key, value) for key, value in sequences.items()}


def _read(key: str, value: Any) -> str:
    from ._sequence import SequenceError, format_sequence, parse_sequence

    try:
        return format_sequence(parse_sequence(value))
    except SequenceError as error:
        raise SequenceError("%s: %s" % (SEQUENCES[key], error)) from None
