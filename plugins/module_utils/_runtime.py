# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory for private files that come and go by themselves: profiles that lookups write, stamps, sockets."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

KEPT = 7 * 86400
"""Seconds for which a file is kept after its last use: longer than a task goes on, whose ssh may start anew."""
SWEPT_EVERY = 86400


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

    Its name is made of what is given, its content is what that reads as. So a repeat reads and writes nothing, but
    renews the time for which the profile is kept. A file appears whole or not at all: others that run at the same time
    may already use it.
    """
    import json  # slow to import, and not needed for a directory

    directory = runtime_directory()
    with _Key(directory) as key:
        path = key.name(json.dumps(given, sort_keys=True), ".json")
        if not renew(path):
            text = json.dumps(read(), sort_keys=True)
            draft = "%s.%d" % (path, os.getpid())
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(draft, path)
        key.sweep_now_and_then()
    return path


def secret_path(secret: str, ending: str) -> str:
    """Give the path of a file in the runtime directory whose name is made of a secret, and tells nothing of it."""
    with _Key(runtime_directory()) as key:
        return key.name(secret, ending)


def renew(path: str) -> bool:
    """Say that a file is in use, so that it is kept; False if it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def is_kept_here(path: str) -> bool:
    """Is this a name that this module makes: of 32 digits? Earlier ones made 64, of the sequence alone."""
    stem, _dot, ending = os.path.basename(path).partition(".")
    made = len(stem) in (32, 64) and not stem.strip("0123456789abcdef")
    return (made and ending.startswith(("json", "stamp"))) or (stem == _Key.FILE and bool(ending))


class _Key:
    """The random key of this user, for names. While one is open, no file of the directory is swept away.

    Names of profiles are in lists of processes. A hash of the sequence alone would be as good as the sequence: all
    sequences of three knocks are hashed in an hour.
    """

    FILE = "key"
    LENGTH = 32

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, self.FILE)

    def __enter__(self) -> _Key:
        while True:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                self._make()
                continue
            _lock(self._descriptor, fcntl.LOCK_SH)
            self._secret = os.read(self._descriptor, self.LENGTH)
            if len(self._secret) == self.LENGTH:
                return self
            os.close(self._descriptor)  # the machine went down before it was on the disk
            os.unlink(self._path)

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)

    def name(self, secret: str, ending: str) -> str:
        """Give the path of the file for a secret: the same each time, and a different one for each user."""
        import hmac

        return os.path.join(self._directory, hmac.digest(self._secret, secret.encode(), "sha256").hex()[:32] + ending)

    def sweep_now_and_then(self) -> None:
        """Remove what nobody has used for long. Once a day, because a fleet has thousands of profiles.

        Whoever renews a file holds the key. So nothing is removed that was just found to be there.
        """
        if self._is_swept() or not _lock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) or self._is_swept():
            return  # whoever holds the key does it, or a later one
        now = time.time()
        with os.scandir(self._directory) as entries:
            for entry in entries:
                try:
                    if is_kept_here(entry.name) and now - entry.stat(follow_symlinks=False).st_mtime > KEPT:
                        _remove_unheld(entry.path)
                except OSError:  # gone by now, or no file
                    pass
        os.utime(self._descriptor)

    def _is_swept(self) -> bool:
        return 0 <= time.time() - os.fstat(self._descriptor).st_mtime < SWEPT_EVERY

    def _make(self) -> None:
        """Make a key; of many that do so at the same time the first one wins."""
        draft = "%s.%s" % (self._path, os.urandom(8).hex())
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, os.urandom(self.LENGTH))
            os.fsync(descriptor)
            os.utime(descriptor, (0, 0))  # never swept
            _give_name(draft, self._path)
        finally:
            os.close(descriptor)


def _give_name(draft: str, path: str) -> None:
    """Give a file its name, unless another file has it by now."""
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links: two keys at the same time make two names of one profile, no harm
        os.rename(draft, path)
        return
    os.unlink(draft)


def _lock(descriptor: int, how: int) -> bool:
    """Lock a file, if the file system can; without locks nothing is removed."""
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        return False
    return True


def _remove_unheld(path: str) -> None:
    """Remove a file, unless someone has locked it: a stamp is a lock, too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            os.unlink(path)
    finally:
        os.close(descriptor)


def _is_mine(path: str) -> bool:
    """Is it a real directory of this user?"""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
