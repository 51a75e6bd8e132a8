# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes to decisions: what a fuzzer mutates becomes knocks, lines and messages that get past the first check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Reads decisions off a string of bytes, the same ones each time; when that has ended, all of them are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """At most `size` bytes as they are."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def number(self, limit: int) -> int:
        """0 to limit - 1, of one byte or two."""
        return int.from_bytes(self.take(1 if limit <= 256 else 2), "big") % limit

    def once_in(self, times: int) -> bool:
        """True once in so many; never at the end of the bytes."""
        return self.number(times) == times - 1

    def choice(self, items: Sequence[T]) -> T:
        return items[self.number(len(items))]

    def damage(self, data: bytes, most: int = 4) -> bytes:
        """The data with some bytes changed, put in, left out, or cut off."""
        damaged = bytearray(data)
        for _ in range(1 + self.number(most)):
            place = self.number(len(damaged) + 1)
            what = self.number(8)
            if what < 4:
                damaged[place : place + 1] = self.take(1)
            elif what == 4:
                damaged[place:place] = self.take(1 + self.number(8))
            elif what == 5:
                del damaged[place : place + 1 + self.number(8)]
            elif what == 6:
                damaged[place : place + 1] = b"\xff"
            else:
                del damaged[place:]
        return bytes(damaged)
