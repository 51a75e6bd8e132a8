# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a change, in their order, and what becomes of it from there. How to hold a host there: backends.py."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """A moment of a change."""

    name: str
    dies: str = ""
    """What becomes of the change if the host is the one that dies: `never began`, `undone` or `kept`."""
    lives: str = ""
    """The same if the controller dies, and what runs on the host goes on."""
    then_next_connection: bool = False
    """When the host has come here, the controller is held before it connects again."""


STEPS = (
    SAVED := Step("before the journal", "never began", "undone"),
    STAGED := Step("files staged", "never began", "undone"),
    TIMED := Step("timer set", "never began", "undone"),
    ARMED := Step("journal armed", "undone", "undone"),
    V4_LIVE := Step("IPv4 live, IPv6 not", "undone", "undone"),
    LIVE := Step("both live", "undone", "undone"),
    CONNECTING := Step("before the new connection", "undone", "undone", then_next_connection=True),
    LOGGING_IN := Step("new connection, no login yet", "undone", "undone"),
    CONFIRMING := Step("confirming", "undone", "kept"),
    CONFIRMED := Step("journal confirmed", "kept", "kept"),
    V4_SAVED := Step("rules.v4 saved", "kept", "kept"),
    V6_SAVED := Step("rules.v6 saved", "kept", "kept"),
    TABLE_SAVED := Step("rules saved", "kept", "kept"),
    GUARD_SAVED := Step("guard saved", "kept", "kept"),
    FORGOTTEN := Step("journal gone", "kept", "kept"),
)
"""No backend has all of them: see `Backend.way`."""

REHEARSED = Step("rehearsed")
UNREHEARSED = Step("not rehearsed")
UNDOING = Step("while the host undoes")

LATER = Step("a change that was kept")
ANY = Step("the whole change")
JUDGED = Step("judged and rehearsed")
UNJUDGED = Step("neither judged nor rehearsed")
NOWHERE = (LATER, ANY, JUDGED, UNJUDGED)
"""Nothing is held."""
