# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text files of a host, read if they are there and written whole or not at all; no byte of them is lost."""

from __future__ import annotations

import os
import tempfile

from ._bytes import decode, encode


def read(path: str) -> str | None:
    """The text of a file; None if there is none."""
    try:
        with open(path, "rb") as file:
            return decode(file.read())
    except FileNotFoundError:
        return None


def write(path: str, text: str, mode: int = 0o640, group: int = 0) -> None:
    """Whole or not at all, also when the power fails; makes the folder."""
    directory = os.path.dirname(path)
    umask = os.umask(0o022)  # whatever whoever logs in has: a folder that all may write to hands over what is in it
    try:
        os.makedirs(directory, exist_ok=True)
    finally:
        os.umask(umask)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".knock-")
    try:
        with open(descriptor, "wb") as file:
            file.write(encode(text))
            file.flush()
            os.fchmod(descriptor, mode)
            os.fchown(descriptor, 0, group)
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too, not only what it names
    finally:
        os.close(folder)
