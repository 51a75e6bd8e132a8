# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change of a host's firewall as a journal on its disk, which the command `knock-firewall` can end at any moment.

The order is what keeps people from being locked out. Everything that needs space is written first, files beside those
that they will replace, so that keeping the change is nothing but renames. Then the timer is set, then the journal is
marked as armed, and only then rules may become live.
"""

from __future__ import annotations

import contextlib
import grp
import os
import shutil
import time
from pathlib import Path
from shlex import quote
from typing import Any, Mapping, NamedTuple

from ._files import read, write
from ._host_command import CHANGE, CHECK_TIMER, COMMAND, ENABLED, KEEP, ORIGINAL, SCRIPT, STATE, TIMER, UNITS
from ._lock import make_private

GUARD = "/etc/knockd-guard.conf"
"""What the knock daemon refuses by itself while it lives."""


class Failure(Exception):
    """What fail_json will say."""


class Plan(NamedTuple):
    """What a backend says of a change before it makes it."""

    changes_live: bool
    undo: str
    """A shell script that gives our rules the content of now."""
    keep: str | None
    """A shell script that gives our rules the wanted content where they do not have it; None if there shall be none."""
    diff: list[tuple[str, str, str]]
    """What, before, after."""


class Change:
    """One change, from its staging to its end, under the lock."""

    def __init__(self, module: Any, files: Mapping[str, str | None]) -> None:
        self._module = module
        self._files = dict(files)
        """Path to content, None for a file that shall not be there."""

    def differs(self) -> bool:
        return any(read(path) != text for path, text in self._files.items())

    def stage(self, token: str, undo: str, originals: Mapping[str, str | None], seconds: int) -> list[str]:
        """Write everything that the host will need; returns where the files of before will be kept."""
        shutil.rmtree(CHANGE, ignore_errors=True)
        for folder in (STATE, CHANGE):
            make_private(folder)
        backups = {
            path: "%s.%s~" % (path, time.strftime("%Y-%m-%dT%H:%M:%S"))
            for path in originals
            if path in self._files and read(path) and read(path) != self._files[path] and not os.path.isdir(ORIGINAL)
        }
        note = {
            "token": token,
            "deadline": str(int(time.time()) + seconds),
            "undo": undo,
            "discard": self._discard(),
            "finish": self._finish(backups),
        }
        if read(GUARD) != self._files.get(GUARD):
            note["reload"] = ""
        for name, content in note.items():
            write(os.path.join(CHANGE, name), content, mode=0o600)
        # Only now, so that whatever stops us, `discard` knows what to remove
        for path, text in self._files.items():
            if text is not None:
                mode, group = (0o700, 0) if path == KEEP else (0o640, group_of_knockd() if path == GUARD else 0)
                write(staged(path), text, mode, group)
        if not os.path.isdir(ORIGINAL):
            make_private(os.path.dirname(ORIGINAL))
            make_private(CHANGE + "/original")
            for path, text in originals.items():
                if text is not None:
                    write("%s/original/%s" % (CHANGE, os.path.basename(path)), text, mode_of(path))
        return list(backups.values())

    def unstage(self) -> None:
        """Remove what `stage` has written; nothing has become live."""
        for path in self._files:
            with contextlib.suppress(OSError):  # not there, or on a disk that nobody can write to
                os.unlink(staged(path))
        shutil.rmtree(CHANGE, ignore_errors=True)

    def arm(self, token: str, seconds: int) -> None:
        """Let the host end the change by itself, in a process that nothing of this connection can end."""
        resolve = [COMMAND, "resolve", token]
        if has_systemd():
            # Of an earlier change, if any: it waits for the lock that we hold
            self._module.run_command(["systemctl", "stop", TIMER + ".timer", TIMER + ".service"])
            properties = ["--property=Restart=on-failure", "--property=RestartSec=5", "--timer-property=AccuracySec=1s"]
            status, out, err = self._module.run_command(
                ["systemd-run", "--quiet", "--collect", "--unit=" + TIMER, "--on-active=%d" % seconds]
                + ["--description=Take back a change of the firewall that nobody has confirmed", *properties, *resolve]
            )
            if status != 0:
                raise Failure("The revert cannot be armed: %s" % (err or out).strip())
        else:
            # It ends by itself after the sleep: the token tells it that its change is no longer the one that waits
            detached = """setsid sh -c 'sleep "$0"; until "$@"; do sleep 5; done' "$@" </dev/null >/dev/null 2>&1 &"""
            self._module.run_command(["/bin/sh", "-c", detached, "sh", str(seconds), *resolve])
        write(CHANGE + "/armed", "", mode=0o600)

    def _discard(self) -> str:
        # With what a killed `write` has left
        folders = dict.fromkeys(os.path.dirname(path) for path in self._files)
        return "rm -f %s\n" % " ".join("%s/.knock-*" % quote(folder) for folder in folders)

    def _finish(self, backups: Mapping[str, str]) -> str:
        lines = [
            'place() { if [ -e "$1" ]; then mv -f "$1" "$2" || exit 1; fi; }',
            "original=%s" % quote(ORIGINAL),
            'if [ ! -e "$original" ]; then mv %s/original "$original" || exit 1; fi' % CHANGE,
        ]
        # A second name costs no space, and the rename below leaves it with the old content
        lines += [
            "[ -e %s ] || ln %s %s || exit 1" % (quote(backup), quote(path), quote(backup))
            for path, backup in backups.items()
        ]
        for path, text in self._files.items():
            if text is None:
                lines.append("rm -f %s || exit 1" % quote(path))
            else:
                lines.append("place %s %s" % (quote(staged(path)), quote(path)))
        lines.append("sync %s" % " ".join(quote(folder) for folder in {os.path.dirname(path) for path in self._files}))
        return "\n".join(lines) + "\n"


def staged(path: str) -> str:
    """Where the new content of a file waits: beside it, so that a rename puts it in place."""
    return "%s/.knock-%s" % (os.path.dirname(path), os.path.basename(path))


def is_under_way() -> bool:
    return os.path.isdir(CHANGE)


def knock_firewall(module: Any, *arguments: str) -> str:
    """Run the host's command. Call it without the lock: the command takes it. Raises Failure with what it says."""
    status, out, err = module.run_command([COMMAND, *arguments])
    if status != 0:
        raise Failure("%s %s: %s" % (os.path.basename(COMMAND), arguments[0], (err or out).strip()))
    return str(out).strip()


# --- what is there as long as we protect the host --------------------------------------------------------------------


def install(module: Any) -> bool:
    """The command and its units; returns whether anything was new."""
    wanted = {COMMAND: (SCRIPT, 0o755), **{path: (text, 0o644) for path, text in UNITS.items()}}
    if all(read(path) == text for path, (text, dummy) in wanted.items()):
        return False
    if not module.check_mode:
        for path, (text, mode) in wanted.items():
            write(path, text, mode)
        if has_systemd():
            for command in (["daemon-reload"], ["enable", "--quiet", *ENABLED], ["start", CHECK_TIMER]):
                status, out, err = module.run_command(["systemctl", *command])
                if status != 0:
                    raise Failure("systemctl %s: %s. Nothing was changed" % (command[0], (err or out).strip()))
    return True


def uninstall(module: Any) -> None:
    """Everything of `install`, and what changes have left."""
    if has_systemd() and os.path.exists(COMMAND):
        module.run_command(["systemctl", "disable", "--quiet", *ENABLED])
        module.run_command(["systemctl", "stop", CHECK_TIMER])
    for path in (COMMAND, *UNITS):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with contextlib.suppress(OSError):  # a drop-in's folder that others use, too
            if path.endswith(".conf"):
                os.rmdir(os.path.dirname(path))
    if has_systemd():
        module.run_command(["systemctl", "daemon-reload"])
    shutil.rmtree(STATE, ignore_errors=True)


def originals() -> dict[str, str] | None:
    """Base name to content of the files of before the first change; None if nobody has kept them."""
    if not os.path.isdir(ORIGINAL):
        return None
    return {path.name: read(str(path)) or "" for path in Path(ORIGINAL).iterdir()}


def mode_of(path: str) -> int:
    return os.stat(path).st_mode & 0o777


def group_of_knockd() -> int:
    try:
        return grp.getgrnam("knockd").gr_gid
    except KeyError:
        return 0


def has_systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def reload_knockd(module: Any) -> None:
    if has_systemd() and module.run_command(["systemctl", "is-active", "--quiet", "knockd.service"])[0] == 0:
        status, out, err = module.run_command(["systemctl", "reload", "knockd.service"])
        if status != 0:
            raise Failure("knockd does not reload: %s" % (err or out).strip())
