# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `knock` has done so far, counted for programs and told to people as it happens. Secret ports are not in it."""

from __future__ import annotations

import socket
import time

from ._knocker import Target
from ._profile import Profile
from ._sequence import Knock

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it takes longer than knocking
    from typing import Any, Callable, Optional

SENT, OPENED, WAS_OPEN = "sent", "opened", "was open"
"""How it ended: knocked without looking, the port opened, it was open before."""


class Account:
    """One run of the command."""

    def __init__(self, profile: Profile, *, secret: bool, timed: bool, say: Optional[Callable[[str], None]]) -> None:
        self._lengths = [len(sequence) for sequence in profile.sequences]
        self._secret = secret
        self._timed = timed
        self._say = say
        self._begin = time.monotonic()
        self._left = 0
        self._target: Optional[Target] = None
        self.attempts = 0
        self.knocks = 0

    def resolved(self, target: Target) -> None:
        """Say which of the host's addresses it will be."""
        self._target = target
        address = "an address" if target.host == target.address else target.address
        self.note("%s is %s, %s" % (target.host, address, "IPv6" if _family(target) == "ipv6" else "IPv4"))

    def knocked(self, item: Knock) -> None:
        """Say what is about to be sent, in the words of C knock."""
        assert self._target
        if not self._left:
            number = self.attempts % len(self._lengths)
            self._left = self._lengths[number]
            self.attempts += 1
            self.note("attempt %d%s" % (self.attempts, ", with the previous sequence" if number else ""))
        self._left -= 1
        self.knocks += 1
        port = "" if self._secret else ":%d" % item.port
        line = "hitting %s %s%s" % (item.protocol, self._target.address, port)
        if self._timed:
            self.note(line)
        elif self._say:
            self._say(line)

    def note(self, text: str) -> None:
        """Say it to who wants to know more than C knock says."""
        if self._say and self._timed:
            self._say("%8.1f ms  %s" % (self._elapsed(), text))

    def opened(self, port: int) -> None:
        """Say how it ended well."""
        counts = _count(self.attempts, "attempt"), _count(self.knocks, "knock")
        self.note("port %d of %s is open after %s, %s" % (port, self._target, *counts))

    def as_json(self, port: int, state: str) -> dict[str, Any]:
        """Give it all for programs; `port` is the one that opens."""
        assert self._target
        return {
            "host": self._target.host,
            "address": self._target.address,
            "family": _family(self._target),
            "port": port or None,
            "knocks": self.knocks,
            "attempts": self.attempts,
            "elapsed_ms": round(self._elapsed(), 1),
            "state": state,
        }

    def _elapsed(self) -> float:
        return (time.monotonic() - self._begin) * 1000


def _family(target: Target) -> str:
    return "ipv6" if target.family == socket.AF_INET6 else "ipv4"


def _count(number: int, what: str) -> str:
    return "%d %s%s" % (number, what, "" if number == 1 else "s")
