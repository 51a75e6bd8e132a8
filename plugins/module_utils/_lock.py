# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a host's rules, which only root can hold: for our modules, and as shell for the command `knock-firewall`.

Who can open the file can hold it, so folder and file are root's alone from the moment they are made. A file that
somebody else could have opened is replaced, as a chmod would not end what is held through an open descriptor:

* The lock is held by who has locked the very file that its name leads to *afterwards*.
* The name only ever leads elsewhere from a file that is not root's alone, so nobody loses a lock that is.
* The new file is made and locked as `lock.new`, and then renamed: two that replace at once wait for each other there,
  and the second one finds the first one's file. `lock.new` goes by the rename, and a crash leaves nothing that counts.
* A process of root may hold the old file honestly: an older version of ours. The replacing one waits for it, and keeps
  the old file locked as well. Nobody waits for a process of somebody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from typing import Iterator, NoReturn, Sequence

LOCK = "/run/knock_firewall/lock"
NEW = LOCK + ".new"

PATIENCE = 60.0
"""Seconds. Another run holds the lock while it rehearses a change."""
_AGAIN = 0.1


class LockError(OSError):
    """Who holds the lock, what has not been changed, and the cure."""


def make_private(path: str) -> None:
    """A folder that is root's alone, from the moment it is there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise LockError("%s is not a folder. Nothing has been changed. Remove it" % path)
    if (found.st_uid, found.st_mode & 0o7777) != (0, 0o700):
        os.chown(path, 0, 0)
        os.chmod(path, 0o700)


@contextlib.contextmanager
def locked(patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock. Raises LockError if others do not let go of it within `patience` seconds."""
    until = time.monotonic() + patience
    make_private(os.path.dirname(LOCK))
    with contextlib.ExitStack() as held:
        while not (_lock(held, until) if _is_private(LOCK, missing=True) else _replace(held, until)):
            held.close()
        yield


def _lock(held: contextlib.ExitStack, until: float) -> bool:
    descriptor = _open(held, LOCK)
    _wait(descriptor, until)
    return _leads_to(LOCK, descriptor) and _is_private(LOCK)


def _replace(held: contextlib.ExitStack, until: float) -> bool:
    """Put a new file in the place of one that is not root's alone; returns whether we hold it now."""
    if not _is_private(NEW, missing=True):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(NEW)
    descriptor = _open(held, NEW)
    _wait(descriptor, until)
    if not _leads_to(NEW, descriptor):
        return False
    if _is_private(LOCK, missing=True):  # somebody was faster
        with contextlib.suppress(FileNotFoundError):
            os.unlink(NEW)
        return False
    if stat.S_ISREG(os.lstat(LOCK).st_mode):
        old = os.open(LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        held.callback(os.close, old)
        _wait(old, until, for_others=False)
    with contextlib.suppress(FileNotFoundError):
        os.rename(NEW, LOCK)
    return _leads_to(LOCK, descriptor)


def _open(held: contextlib.ExitStack, path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    held.callback(os.close, descriptor)
    return descriptor


def _is_private(path: str, missing: bool = False) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return missing
    return (found.st_mode, found.st_uid) == (stat.S_IFREG | 0o600, 0)


def _leads_to(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _wait(descriptor: int, until: float, for_others: bool = True) -> None:
    """Lock what is open. Without `for_others`, who is not root is not waited for, and the file stays unlocked."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not for_others and not any(_user_of(pid) == "0" for pid in holders(descriptor)):
                return
        if time.monotonic() > until:
            _give_up(holders(descriptor))
        time.sleep(_AGAIN if for_others else 10 * _AGAIN)


def _give_up(pids: Sequence[str]) -> NoReturn:
    raise LockError(
        "%s is held by %s. Nothing has been changed. Wait until it ends, or end it, and run this again"
        % (LOCK, ", ".join(map(_describe, pids)) or "a process that cannot be seen from here")
    )


def holders(descriptor: int) -> list[str]:
    """The processes that hold an open file by flock, as the kernel tells it for each of their descriptors."""
    found, file_of = [], os.fstat(descriptor)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for number in os.listdir("/proc/%s/fd" % pid):
                if os.path.samestat(os.stat("/proc/%s/fd/%s" % (pid, number)), file_of):
                    with open("/proc/%s/fdinfo/%s" % (pid, number), encoding="utf-8") as file:
                        if "FLOCK" in file.read():
                            found.append(pid)
                            break
    return found


def _user_of(pid: str) -> str:
    """The number of who has started it: a program that runs as root by its set-user-ID bit is not root's."""
    with contextlib.suppress(OSError), open("/proc/%s/status" % pid, encoding="utf-8", errors="replace") as file:
        return next((line.split()[1] for line in file if line.startswith("Uid:")), "")
    return ""


def _describe(pid: str) -> str:
    """Its command is what its owner wants it to be, so only what can be printed of it counts."""
    words = b""
    with contextlib.suppress(OSError), open("/proc/%s/cmdline" % pid, "rb") as file:
        words = file.read(100)
    text = "".join(chr(byte) if 32 <= byte < 127 else " " for byte in words).strip()
    return "process %s of user %s (%s)" % (pid, _user_of(pid) or "?", text or "?")


SHELL = """\
# --- the lock, as plugins/module_utils/_lock.py explains it ---

lock=@LOCK@
patience=30 # seconds: others hold it for one or two, unless they rehearse a change, or hang

now() { cut -d. -f1 /proc/uptime; } # a clock that nobody sets
is_private() { [ "$(stat -c '%f %u' "$1" 2>/dev/null)" = '8180 0' ]; } # a file, 0600, root's
is_wrong() { case $(stat -c '%f %u' "$1" 2>/dev/null) in '' | '8180 0') false ;; esac } # there, and not so
file_of() { stat -L -c '%d:%i' "$1" 2>/dev/null; } # empty where there is none
leads_to() { [ ! -L "$1" ] && [ "$(file_of "$1")" = "$(file_of "/proc/self/fd/$2")" ]; }

holders() { # DESCRIPTOR: the processes that hold the open file
    grep -lrs FLOCK /proc/[0-9]*/fdinfo | while read -r info; do
        pid=${info#/proc/} pid=${pid%%/*}
        if [ "$(file_of "/proc/$pid/fd/${info##*/}")" = "$(file_of "/proc/self/fd/$1")" ]; then echo "$pid"; fi
    done | sort -u
}

user_of() { # PID: who has started it
    sed -n 's/^Uid:[^0-9]*\\([0-9]*\\).*/\\1/p' "/proc/$1/status" 2>/dev/null
}

held() { # DESCRIPTOR ARGUMENTS...: says who holds the lock
    pids=$(holders "$1") by=
    shift
    for pid in $pids; do
        words=$(head -c 100 "/proc/$pid/cmdline" 2>/dev/null | LC_ALL=C tr -c ' -~' ' ')
        by="${by:+$by, }process $pid of user $(user_of "$pid") (${words% })"
    done
    echo "$lock is held by ${by:-a process that cannot be seen from here}. Nothing has been changed." \\
        "Wait until it ends, or end it; then run this again: knock-firewall $*" >&2
    exit 4
}

left() { # the seconds of our patience that are left
    left=$((until - $(now)))
    echo "$((left > 0 ? left : 0))"
}

hold() { # ARGUMENTS: holds the lock until the end of this script; they are for the message only
    until=$(($(now) + patience))
    folder=${lock%/*}
    (umask 077 && mkdir "$folder" 2>/dev/null)
    if [ -L "$folder" ] || [ ! -d "$folder" ]; then
        echo "$folder is not a folder. Nothing has been changed. Remove it" >&2
        exit 1
    fi
    if [ "$(stat -c '%a %u' "$folder")" != '700 0' ]; then
        chown 0:0 "$folder" && chmod 700 "$folder" || exit 1
    fi
    while :; do
        if ! is_wrong "$lock"; then
            exec 9>>"$lock" || exit 1
            flock -w "$(left)" 9 || held 9 "$@"
            if leads_to "$lock" 9 && is_private "$lock"; then return; fi
            continue
        fi
        if is_wrong "$lock.new"; then rm -f "$lock.new" || exit 1; fi
        exec 9>>"$lock.new" || exit 1
        flock -w "$(left)" 9 || held 9 "$@"
        leads_to "$lock.new" 9 || continue
        if ! is_wrong "$lock"; then # somebody was faster
            rm -f "$lock.new"
            continue
        fi
        if [ -f "$lock" ] && [ ! -L "$lock" ]; then
            exec 8<"$lock" || exit 1
            until flock -n 8; do
                by_root=
                for pid in $(holders 8); do
                    if [ "$(user_of "$pid")" = 0 ]; then by_root=1; fi
                done
                [ -n "$by_root" ] || break
                [ "$(left)" -gt 0 ] || held 8 "$@"
                sleep 1
            done
        fi
        if mv -fT "$lock.new" "$lock" && leads_to "$lock" 9; then return; fi
        [ "$(left)" -gt 0 ] || exit 1
    done
}
""".replace("@LOCK@", LOCK)
