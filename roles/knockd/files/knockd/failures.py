# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one part of the daemon throws, told once for each place in the code, so that the other parts go on.

Neither the exception's own text nor any value is told: they may hold a sequence.
"""

from __future__ import annotations

import errno
import os
from typing import List, Set

from .log import Log

FRAMES = 6
"""The innermost calls that a line names."""


class Failures:
    """Keeps account of what was told. It throws nothing itself."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._told: Set[str] = set()
        self.fresh = False
        """Whether anything was told or counted since somebody has set this to False."""

    def tell(self, error: Exception) -> None:
        """Say where this came from, if that is new."""
        self.fresh = True
        try:
            calls = _calls(error)
            if calls[-1] in self._told:
                return
            self._told.add(calls[-1])
            self._log.say(
                "one part of knockd has failed, the others go on: %s at %s. Please report this line; it is not repeated"
                " for this place" % (_kind(error), " > ".join(calls[-FRAMES:])),
                "error",
            )
        except Exception:  # the log itself fails: there is nobody left to tell
            pass


def _calls(error: Exception) -> List[str]:
    """`file:line` of each call on the way to the error, the innermost one last."""
    calls = []
    trace = error.__traceback__
    while trace:
        calls.append("%s:%d" % (os.path.basename(trace.tb_frame.f_code.co_filename), trace.tb_lineno))
        trace = trace.tb_next
    return calls


def _kind(error: Exception) -> str:
    """`ValueError`, `OSError ENOSPC`."""
    name = type(error).__name__
    number = getattr(error, "errno", None) or 0
    return "%s %s" % (name, errno.errorcode[number]) if number in errno.errorcode else name
