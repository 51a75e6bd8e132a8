# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory for private files that come and go by themselves: profiles that lookups write, stamps, sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


class RuntimeDirectoryError(ValueError):
    """The directory cannot be used; the message is one sentence that names it and the cure."""


def runtime_directory() -> str:
    """Give the directory for profiles and stamps that come and go by themselves; only this user can look into it."""
    base = os.environ.get("XDG_RUNTIME_DIR") or ""
    if not (os.path.isabs(base) and _is_mine(base)):  # sudo and su leave someone else's in the environment
        base = os.path.expanduser("~/.cache")
    path = os.path.join(base, "sesame-knock")
    if not _is_mine(path):
        os.makedirs(base, mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, mode=0o700)
        except FileExistsError:
            pass
        if not _is_mine(path):
            raise RuntimeDirectoryError("%s must be a directory of your own: remove what is there" % path)
    if stat.S_IMODE(os.stat(path).st_mode) != 0o700:
        os.chmod(path, 0o700)
    return path


def keep_profile(given: Mapping[str, Any], read: Callable[[], Mapping[str, Any]]) -> str:
    """Put a profile into the runtime directory, and give its path.

    Its name is the hash of what is given, its content what that reads as. So a repeat reads and writes nothing. A file
    appears whole or not at all: others that run at the same time may already use it.
    """
    import hashlib  # slow to import, and not needed for a directory
    import json

    name = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest() + ".json"
    path = os.path.join(runtime_directory(), name)
    if not os.path.exists(path):
        text = json.dumps(read(), sort_keys=True)
        draft = "%s.%d" % (path, os.getpid())
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(draft, path)
    return path


def _is_mine(path: str) -> bool:
    """Is it a real directory of this user?"""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
