# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does something once in a while, however many processes ask for it: a lock and a stamp in one private file."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Callable

from ._runtime import secret_path


def once_in(
    seconds: float, key: str, action: Callable[[], None], still_holds: Callable[[], bool] = lambda: True
) -> bool:
    """Run the action unless it has succeeded for this key within so many seconds; say whether it ran.

    `still_holds` is asked before such a success is believed. Others that ask for the same key wait for the one that
    runs it. The key may be secret: what is kept tells nothing of it.
    """
    descriptor = _locked(secret_path(key, ".stamp"))
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        found = os.fstat(file.fileno())
        # An empty file has never succeeded; a stamp from the future is a clock that was set back.
        if found.st_size and 0 <= time.time() - found.st_mtime < seconds and still_holds():
            return False
        action()
        file.write(b"done\n")
        os.utime(file.fileno())
        return True


def _locked(path: str) -> int:
    """Open a file and lock it: the one that has this name then, because old ones are swept away."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # goes with the descriptor, also when this process is killed
        try:
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
