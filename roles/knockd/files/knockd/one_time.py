# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of one-time sequences: which sequence counts now, and marking it used so that it never counts again.

C knockd's format (knockd(1)): one sequence a line; lines that begin with `#` are comments or used. A used line gets a
`#` in place of its first character, so people leave a space there.

The mark is one byte written over another: there is no moment at which the file is half written, so it needs neither a
second file nor a directory that we may write to, and keeps its owner, its mode and everything else. Two daemons that
share a file need no lock either (whoever may read it could hold one for ever): marking twice is marking once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from .sequence import Knock, SequenceError, parse_sequence

_COMMENT = re.compile(rb"\s#.*")


class Supply(NamedTuple):
    """What a file of one-time sequences holds."""

    sequence: tuple[Knock, ...]
    """The one that counts now; empty when all are used up."""
    left: int
    """How many can still be used, `sequence` included."""
    warnings: tuple[str, ...]
    """Sentences about bad lines, `FILE:LINE: ...`; they hold no sequence."""


class _Line(NamedTuple):
    offset: int
    number: int
    text: bytes


def supply(path: str) -> Supply:
    """Read the file; OSError if that is not possible."""
    with open(path, "rb") as file:
        return _judge(path, file.read())


def consume(path: str, used: tuple[Knock, ...]) -> Supply:
    """Mark `used` in the file, durably, and return what is left; OSError if that is not possible.

    Call it before the door opens, and keep the door shut if it fails: a sequence that stays valid can be replayed.
    """
    with open(path, "r+b", buffering=0) as file:
        content = file.readall()
        marked = bytearray(content)
        for line in _lines(content):
            # All of its kind: a second copy would make the used sequence valid again.
            if _sequence(line) == used:
                os.pwrite(file.fileno(), b"#", line.offset)
                marked[line.offset] = ord("#")
        os.fsync(file.fileno())
        return _judge(path, bytes(marked))


def _judge(path: str, content: bytes) -> Supply:
    sequences = []
    warnings = []
    for line in _lines(content):
        try:
            sequences.append(parse_sequence(_text(line)))
        except SequenceError as error:
            warnings.append(f"{path}:{line.number}: {error}: the line is skipped")
    return Supply(sequences[0] if sequences else (), len(set(sequences)), tuple(warnings))


def _lines(content: bytes) -> Iterator[_Line]:
    """Yield the lines that are neither empty nor a comment nor used."""
    offset = 0
    for number, text in enumerate(content.split(b"\n"), 1):
        stripped = text.strip()
        if stripped and not stripped.startswith(b"#"):
            yield _Line(offset, number, text)
        offset += len(text) + 1


def _sequence(line: _Line) -> tuple[Knock, ...]:
    """Read a line's sequence; empty if it has none."""
    try:
        return parse_sequence(_text(line))
    except SequenceError:
        return ()


def _text(line: _Line) -> str:
    """Return what a line says, without a comment at its end; bytes that are no text come out as `?`."""
    return _COMMENT.sub(b"", line.text).decode("ascii", "replace").replace("\ufffd", "?").strip()
