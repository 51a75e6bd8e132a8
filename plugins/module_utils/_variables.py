# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lookups read from a host's variables: its sequences, as plain strings."""

from __future__ import annotations

from typing import Any, Mapping

from ._sequence import SequenceError, format_sequence, parse_sequence

SEQUENCE = "knock_sequence"
PREVIOUS = "knock_sequence_previous"


def read_sequences(variables: Mapping[str, Any], templar: Any) -> dict[str, str]:
    """Give what a profile calls `sequence` and `previous`; {} for a host without a sequence.

    A lookup gets its variables as they were written: templates and vaulted values included. Written out as knockd.conf
    has them, sequences carry none of Ansible's tags, and one sequence is one profile however it was written.
    """
    found = {}
    for key, name in (("sequence", SEQUENCE), ("previous", PREVIOUS)):
        value = templar.template(variables[name]) if variables.get(name) is not None else None
        if not value:
            continue
        try:
            found[key] = format_sequence(parse_sequence(value))
        except SequenceError as error:
            raise SequenceError("%s: %s" % (name, error)) from None
    return found if "sequence" in found else {}
